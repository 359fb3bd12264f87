"""The train.py of a checkout, by the habits of the CoOp family; two lines of a trainer's are put in."""

import argparse

from yacs.config import CfgNode as CN

import datasets.squares  # noqa: F401
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger

# the trainer's import


def extend_cfg(cfg):
    cfg.TRAINER.OTHER = CN()  # the keys of another trainer
    cfg.TRAINER.OTHER.N_CTX = 16
    # the trainer's keys
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"


def reset_cfg(cfg, args):
    if args.root:
        cfg.DATASET.ROOT = args.root
    if args.output_dir:
        cfg.OUTPUT_DIR = args.output_dir
    if args.resume:
        cfg.RESUME = args.resume
    if args.seed:
        cfg.SEED = args.seed
    if args.trainer:
        cfg.TRAINER.NAME = args.trainer


def main(args):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for file in filter(None, (args.dataset_config_file, args.config_file)):
        cfg.merge_from_file(file)
    reset_cfg(cfg, args)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for flag in ("root", "output-dir", "resume", "config-file", "dataset-config-file", "trainer", "model-dir"):
        parser.add_argument(f"--{flag}", type=str, default="")
    for flag in ("seed", "load-epoch"):
        parser.add_argument(f"--{flag}", type=int)
    for flag in ("eval-only", "no-train"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER)
    main(parser.parse_args())
