"""Train and evaluate a trainer on a data set: python train.py --trainer NAME --config-file FILE ... [KEY VALUE ...]

The configuration is merged in this order: defaults, the keys of trainers and data sets, the data set's file, the
config files in their order, flags, KEY VALUE pairs. Later values win.

The same command continues a run that was stopped. --list prints all trainers and data sets. Example, with the data set
and the CLIP of this repository:

python train.py --trainer CoOp --backbone small --root data DATASET.NAME FashionMNIST DATASET.NUM_SHOTS 4

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 something failed, or a reproduction gave
other results.
"""

import argparse
import os.path as osp
import shlex
import sys
import time
from collections import Counter
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path

from tabulate import tabulate

from dassl import reproduce
from dassl.config import (
    check_same_run,
    compose,
    config_hash,
    flatten,
    get_cfg_default,
    has_checkpoint,
    read_flat,
)
from dassl.plugins import load_plugins
from dassl.utils import (
    Parser,
    UserError,
    collect_env_info,
    command,
    git_state,
    hash_file,
    machine,
    note,
    owned,
    package_versions,
    peak_memory,
    process_group,
    replacing,
    set_determinism,
    setup_logger,
    signals_interrupt,
    uninterrupted,
    user_input,
    world_size,
    write_csv,
    write_json,
)

CONFIGS = Path(__file__).parent / "configs"
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


def parse_args(argv):
    parser, defaults = Parser(__doc__), flatten(get_cfg_default())

    def add(name, text, **options):
        """Add the flag of a key."""
        key = FLAG_KEYS[name]
        default = defaults[key] if defaults[key] not in ("", ()) else "none"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{text} ({key}; by default {default})", **options)

    add("root", "folder of the data sets")
    add("output_dir", "folder of the results; a stopped run in it continues")
    add("resume", "folder of a stopped run to continue in --output-dir")
    add("seed", "seed of all random choices; 0 or more makes the run repeatable", type=int)
    add("source_domains", "domains to train on, if the data set has domains", nargs="+")
    add("target_domains", "domains to test on, if the data set has domains", nargs="+")
    add("transforms", "image transforms in training", nargs="+")
    parser.add_argument("--config-file", action="append", default=[], help="file of settings; may be repeated")
    parser.add_argument("--dataset-config-file", help="file of the data set's settings")
    parser.add_argument(
        "--allow-new-keys",
        action="store_true",
        help="accept keys TRAINER.<NODE>.<KEY> that no trainer declares",
    )
    add("trainer", "name of the trainer")
    add("backbone", "name of the backbone, or of its file in configs/backbones, which is merged then")
    add("head", "name of the head")
    parser.add_argument("--list", action="store_true", help="print all trainers and data sets, and stop")
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--model-dir", default="", help="folder of the run whose weights --eval-only loads")
    parser.add_argument(
        "--load-epoch", type=int, help="epoch of those weights; by default the best on validation, or else the only one"
    )
    parser.add_argument("--no-train", action="store_true", help="build everything and stop")
    parser.add_argument("--reproduce", metavar="RESULTS_JSON", help="repeat this run and compare the metrics")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, after all flags")
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        raise UserError(f"options after the flags must be KEY VALUE pairs, got {' '.join(args.opts)}")
    return args


def setup_cfg(args):
    """Return the frozen configuration that the arguments give."""
    flags = {key: getattr(args, name) for name, key in FLAG_KEYS.items()}
    files = [args.dataset_config_file, *args.config_file]
    of_backbone = CONFIGS / "backbones" / f"{args.backbone}.yaml"
    if of_backbone.is_file():
        files.append(of_backbone)
        del flags["MODEL.BACKBONE.NAME"]
    values = {key: repr(value) for key, value in flags.items() if value not in (None, "")}
    values |= dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    return compose(filter(None, files), values, args.allow_new_keys)


def print_names():
    """Print the names of all trainers and data sets, with their files in configs/."""
    from dassl.data.datasets import DATASET_REGISTRY  # here, because they import torch
    from dassl.engine import TRAINER_REGISTRY

    load_plugins()
    of_trainer = {path.parent.name: path for path in CONFIGS.glob("trainers/*/default.yaml")}
    of_dataset = {read_flat(path)["DATASET.NAME"]: path for path in CONFIGS.glob("datasets/*.yaml")}
    for title, registry, files in (
        ("trainer (--trainer)", TRAINER_REGISTRY, of_trainer),
        ("data set (DATASET.NAME)", DATASET_REGISTRY, of_dataset),
    ):
        paths = {name: path.relative_to(CONFIGS.parent).as_posix() for name, path in files.items()}
        rows = [(name, paths.get(name, "")) for name in sorted(registry.registered_names())]
        print(tabulate(rows, [title, "file of settings"]), end="\n\n")


def prepare(args, cfg):
    """Return the trainer of a run, after setting up its seed, log, config.yaml, data and model."""
    from dassl.engine import build_trainer  # here, because it imports torch

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
        if args.model_dir and args.load_epoch is None:
            args.load_epoch = trainer.epoch_to_load(args.model_dir)
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
    return trainer


def run(args, cfg, trainer, words, started):
    """Train and test, or only test, and write predictions.csv and results.json.

    Args:
        args: The parsed arguments.
        cfg: The configuration.
        trainer: Of `prepare`.
        words: The arguments as they were given.
        started: time.time() before `prepare`.
    """
    import torch  # here, because it takes a second

    from dassl.data.datasets import hash_images
    from dassl.utils.images import REMARKS, in_words

    learned, start = trainer.learned_parameters(), time.time()
    loading = start - started - trainer.spent.total()
    if args.eval_only:
        trainer.test()
    else:
        trainer.train()
    results = {
        "metrics": {**trainer.evaluator.results, **trainer.results},
        "dataset": cfg.DATASET.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "protocol": cfg.PROTOCOL,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "classnames": trainer.made_with()["classnames"],
        "command": shlex.join(["python", "train.py", *words]),
        **{key: when.isoformat(timespec="milliseconds") for key, when in span(started).items()},
        "seconds": round(time.time() - start, 3),
        "seconds_of": {part: round(s, 3) for part, s in {"loading": loading, **trainer.spent}.items()},
        "peak_gib": peak_memory(trainer.device),
        "learned_parameters": learned,
        "epochs": args.load_epoch if args.eval_only else cfg.OPTIM.MAX_EPOCH,
        "machine": machine(),
        "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else trainer.device.type,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "git": git_state(osp.dirname(osp.abspath(__file__))),
        "config_hash": config_hash(cfg),
        "backbone_hash": (path := trainer.backbone_file()) and hash_file(path),
        "evaluated": {"model_dir": args.model_dir, "epoch": args.load_epoch} if args.eval_only else None,
    }
    if cfg.DATALOADER.ON_ERROR == "skip":
        results["skipped_images"] = trainer.skipped_images()
        for split, paths in results["skipped_images"].items():
            print(f"Skipped {len(paths)} unreadable {split} images {' '.join(paths)}".rstrip())
    data = getattr(getattr(trainer, "dm", None), "dataset", None)
    if items := getattr(data, "train_x", None):
        results["train_images"] = Counter(item.classname for item in items)
        tested = data.val if trainer.split_to_evaluate() == "val" else data.test
        parts = {"train": items, "test": tested}
        results["images"] = {part: len(images or ()) for part, images in {**parts, "val": data.val}.items()}
        results["split_hash"] = {part: hash_images(images, cfg.DATASET.ROOT) for part, images in parts.items()}
    if notes := getattr(data, "notes", ()):
        results["notes"] = list(notes)
    if remarks := getattr(trainer, "image_remarks", dict)():  # a trainer may have loaders of its own
        results["remarks"] = {REMARKS[key]: number for key, number in remarks.items()}
        note(in_words(remarks))
    if predictions := trainer.evaluator.predictions(trainer.tested):
        write_csv(predictions, osp.join(cfg.OUTPUT_DIR, "predictions.csv"))
    write_json(results, osp.join(cfg.OUTPUT_DIR, "results.json"))


def span(started):
    """Return the UTC times of the run's start, which is time.time(), and of its end, which is now."""
    now = datetime.now(timezone.utc)
    return {"started": datetime.fromtimestamp(started, timezone.utc), "ended": now}


def carry_out(args, cfg, words, started):
    """Prepare a run and carry it out, in its own folder, until a signal interrupts it; arguments as of `run`.

    Raises:
        UserError: The user made a mistake, or the disk is full.
        KeyboardInterrupt: A signal stopped the run.
    """
    with process_group(), owned(cfg.OUTPUT_DIR):
        with user_input():
            trainer = prepare(args, cfg)
        if not args.no_train:
            # Several processes end together, at the points where they exchange their signals.
            together = uninterrupted() if world_size() > 1 else nullcontext()
            with user_input((FloatingPointError, OSError)), together:
                run(args, cfg, trainer, words, started)


@command
def main(argv=None):
    """Run train.py and return its exit code, which --help explains."""
    console, cfg, reproduced, started = sys.stdout, None, None, time.time()
    words = sys.argv[1:] if argv is None else argv
    try:
        with signals_interrupt():
            with user_input():
                args = parse_args(words)
                if args.list:
                    print_names()
                    return 0
                if reproduced := args.reproduce:
                    words = [*reproduce.arguments_of(reproduced), *args.opts]
                    args = parse_args(words)
                    reproduce.set_threads(reproduced)
                cfg = setup_cfg(args)
            carry_out(args, cfg, words, started)
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
