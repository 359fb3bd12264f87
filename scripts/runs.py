"""Finished runs of train.py, loaded again by other scripts."""

import contextlib
import csv
import io

import train
from dassl.engine import build_trainer


def read_config(folder, *flags):
    """The configuration of a run's folder (a Path); flags of train.py change it.

    Raises ValueError if the folder is no run.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{folder} is no run: it has no config.yaml")
    return train.setup_cfg(train.parse_args(["--config-file", str(config), *flags]))


def load_trainer(folder, cfg, epoch):
    """The trainer of a run, in evaluation, with its weights after `epoch` epochs; None: the best on validation.

    Its images are drawn with the run's seed, as the run drew them.
    Raises OSError or ValueError if the data or the weights are missing or do not fit.
    """
    train.set_determinism(cfg.SEED)
    with contextlib.redirect_stdout(io.StringIO()):  # the log of the set-up, which the run's own log.txt holds
        trainer = build_trainer(cfg)
        trainer.load_model(str(folder), epoch=epoch)
    trainer.set_model_mode("eval")
    return trainer


def read_predictions(folder):
    """The rows of a run's predictions.csv, as {column: text}; none without that file."""
    path = folder / "predictions.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
