"""Train and evaluate a trainer on a data set.

The configuration is merged in this order: defaults, the nodes of trainers and data sets, the data set's file,
the config files as given, flags, KEY VALUE pairs.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 something failed, or a reproduction gave
other results. A run that was stopped goes on by the same command.
"""

import argparse
import glob
import hashlib
import os
import os.path as osp
import sys
import time
from contextlib import nullcontext

import torch
import yaml

import datasets  # noqa: F401 (registers the readers)
import trainers  # noqa: F401 (registers the trainers)
from dassl import reproduce
from dassl.config import check_ranges, check_values, flatten, get_cfg_default, merge_file, merge_pairs, read_flat
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import (
    UserError,
    collect_env_info,
    git_state,
    is_main,
    owned,
    package_versions,
    process_group,
    replacing,
    same_seed,
    set_random_seed,
    setup_logger,
    signals_interrupt,
    uninterrupted,
    world_size,
    write_csv,
    write_json,
)

FLAG_KEYS = {
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "seed": "SEED",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "trainer": "TRAINER.NAME",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}
# What may change when a run is continued: where and how long it runs and what it shows, not what it learns.
FREE_KEYS = (
    *("OUTPUT_DIR", "RESUME", "USE_CUDA", "VERBOSE", "TRAIN.", "TEST.", "INPUT.FEATURE_", "TRAINER.MEMORY_BUDGET"),
    *("DATASET.ROOT", "DATALOADER.NUM_WORKERS", "DATALOADER.ON_ERROR", "DATALOADER.TEST.", "OPTIM.MAX_EPOCH"),
)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (see --help)")


def parse_args(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the data sets")
    parser.add_argument("--output-dir", help="folder of the results; a run found there is continued")
    parser.add_argument("--resume", help="folder of a run to continue in another output folder")
    parser.add_argument("--seed", type=int, help="0 or more makes the run repeatable")
    parser.add_argument("--source-domains", nargs="+", help="for data sets with domains")
    parser.add_argument("--target-domains", nargs="+", help="for data sets with domains")
    parser.add_argument("--transforms", nargs="+", help="image transforms in training")
    parser.add_argument("--config-file", action="append", default=[], help="the method's; may be repeated")
    parser.add_argument("--dataset-config-file", help="the data set's")
    parser.add_argument(
        "--allow-new-keys",
        action="store_true",
        help="take keys TRAINER.<NODE>.<KEY> that no trainer declares from files and pairs",
    )
    parser.add_argument("--trainer", help="name of the trainer")
    parser.add_argument("--backbone", help="name of the backbone")
    parser.add_argument("--head", help="name of the head")
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--model-dir", default="", help="run whose weights --eval-only loads")
    parser.add_argument("--load-epoch", type=int, help="epoch of those weights; the best if not given")
    parser.add_argument("--no-train", action="store_true", help="build everything and stop")
    parser.add_argument("--reproduce", metavar="RESULTS_JSON", help="run again what wrote it, and compare the metrics")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, after all flags")
    return parser.parse_args(argv)


def setup_cfg(args):
    """Merge the configuration of a run and freeze it."""
    cfg = get_cfg_default()
    TRAINER_REGISTRY.extend_cfg(cfg)
    DATASET_REGISTRY.extend_cfg(cfg)
    for fpath in filter(None, [args.dataset_config_file, *args.config_file]):
        merge_file(cfg, fpath, args.allow_new_keys)
    flags = {key: getattr(args, name) for name, key in FLAG_KEYS.items()}
    merge_pairs(cfg, {key: repr(value) for key, value in flags.items() if value not in (None, "")})
    if len(args.opts) % 2:
        raise UserError(f"options after the flags come in KEY VALUE pairs, got {' '.join(args.opts)}")
    merge_pairs(cfg, dict(zip(args.opts[::2], args.opts[1::2], strict=True)), args.allow_new_keys)
    cfg.freeze()
    check_values(cfg)
    check_ranges(cfg, method_ranges(cfg))
    return cfg


def method_ranges(cfg):
    """{key: interval} of the numbers in the trainer's node, where its class tells them: RANGES, of the keys of NODE."""
    known = cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names()
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME) if known else None  # what is unknown is told when it is built
    name, ranges = getattr(trainer, "NODE", None), getattr(trainer, "RANGES", {})
    return {f"TRAINER.{name}.{key}": interval for key, interval in ranges.items() if key in cfg.TRAINER.get(name, {})}


def has_checkpoint(directory):
    return bool(glob.glob(osp.join(glob.escape(directory), "*", "checkpoint")))


def changed_settings(cfg, directory, free=FREE_KEYS):
    """What a run in a folder was made with, against `cfg`: "KEY old -> new, ..."; "" if all is as it was.

    Args:
        free: starts of the keys that may differ.
    """
    fpath = osp.join(directory, "config.yaml")
    if not osp.isfile(fpath):
        return ""
    old, new = read_flat(fpath), flatten(yaml.safe_load(cfg.dump()))
    name = cfg.DATASET.NAME
    if name in DATASET_REGISTRY.registered_names() and DATASET_REGISTRY.get(name).dataset_dir == "":
        free = tuple(key for key in free if key != "DATASET.ROOT")  # a user's own images: the root is the data set
    changed = [key for key in old if key in new and old[key] != new[key] and not key.startswith(free)]
    return ", ".join(f"{key} {old[key]} -> {new[key]}" for key in changed)


def check_same_run(cfg):
    """Refuse to continue a run with other settings: its results would be those of neither."""
    directory = cfg.RESUME or cfg.OUTPUT_DIR
    if has_checkpoint(directory) and (changes := changed_settings(cfg, directory)):
        raise UserError(f"{directory} holds a run with other settings ({changes}): choose another --output-dir")


def set_determinism(seed):
    """With a seed >= 0, the same machine computes the same bits again."""
    if seed < 0 and world_size() > 1:
        set_random_seed(same_seed())
    if seed < 0:
        torch.backends.cudnn.benchmark = True
        return
    set_random_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable only with it
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # takes time and is for finding bugs only


def prepare(args, cfg):
    """Set up a run and return its trainer: seed, log, config.yaml, data and model."""
    set_determinism(cfg.SEED)
    if not args.eval_only:
        check_same_run(cfg)
    setup_logger(cfg.OUTPUT_DIR)
    print("** Arguments **", *(f"{name}: {value}" for name, value in sorted(vars(args).items())), sep="\n")
    print(f"** Config **\n{cfg}\n** Environment **\n{collect_env_info()}\n")
    with replacing(osp.join(cfg.OUTPUT_DIR, "config.yaml")) as file:
        file.write(cfg.dump())
    trainer = build_trainer(cfg)
    if world_size() > 1 and not trainer.parallel:
        raise UserError(f"{cfg.TRAINER.NAME} trains in one process, not in {world_size()}: start it without torchrun")
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
    return trainer


def config_hash(cfg):
    """A name for all settings but the folder of the results."""
    settings = {key: value for key, value in flatten(yaml.safe_load(cfg.dump())).items() if key != "OUTPUT_DIR"}
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16]


def run(args, cfg, trainer):
    """Train and test, or only test, and write predictions.csv and results.json."""
    start = time.time()
    if args.eval_only:
        trainer.test()
    else:
        trainer.train()
    results = {
        "metrics": {**trainer.evaluator.results, **trainer.results},
        "dataset": cfg.DATASET.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "classnames": trainer.made_with()["classnames"],
        "seconds": round(time.time() - start, 3),
        "epochs": args.load_epoch if args.eval_only else cfg.OPTIM.MAX_EPOCH,
        "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "git": git_state(osp.dirname(osp.abspath(__file__))),
        "config_hash": config_hash(cfg),
        "evaluated": {"model_dir": args.model_dir, "epoch": args.load_epoch} if args.eval_only else None,
    }
    if cfg.DATALOADER.ON_ERROR == "skip":
        results["skipped_images"] = trainer.skipped_images()
        for split, paths in results["skipped_images"].items():
            print(f"Skipped {len(paths)} unreadable {split} images {' '.join(paths)}".rstrip())
    if predictions := trainer.evaluator.predictions(trainer.tested):
        write_csv(predictions, osp.join(cfg.OUTPUT_DIR, "predictions.csv"))
    write_json(results, osp.join(cfg.OUTPUT_DIR, "results.json"))


def main(argv=None):
    """Run train.py; return its exit code: 0, 2 for a mistake of the user, 130 or 143 if stopped by a signal.

    After --reproduce it is 1 if the results are not those that were to be reproduced.
    """
    console, cfg, reproduced = sys.stdout, None, None
    user_errors = (ValueError, OSError)  # in the set-up these are about what the user gave
    try:
        with signals_interrupt():
            args = parse_args(argv)
            if reproduced := args.reproduce:
                args = parse_args([*reproduce.arguments_of(reproduced), *args.opts])
                torch.set_num_threads(reproduce.threads_of(reproduced))
            cfg = setup_cfg(args)
            with process_group(), owned(cfg.OUTPUT_DIR):
                trainer = prepare(args, cfg)
                user_errors = (UserError, FloatingPointError, OSError)
                if not args.no_train:
                    # Several processes end together, where they ask for each other's signals.
                    with uninterrupted() if world_size() > 1 else nullcontext():
                        run(args, cfg, trainer)
    except user_errors as error:
        if is_main():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        saved = cfg is not None and has_checkpoint(cfg.OUTPUT_DIR)
        then = "continues from the last checkpoint" if saved else "starts anew, there is no checkpoint yet"
        print(f"{str(error) or 'interrupted'}: the same command {then}", file=sys.stderr)
        return getattr(error, "code", 130)
    finally:
        sys.stdout = console
    return reproduce.compare(reproduced) if reproduced else 0


if __name__ == "__main__":
    sys.exit(main())
