"""The folder of a finished run: all code that reads, tests, draws or exports a run uses it through here."""

import contextlib
import csv
import io
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import read_config, read_flat
from dassl.plugins import load_plugins
from dassl.utils import UserError, checkpoint_name, set_determinism


def final_epoch(cfg: CfgNode) -> int | None:
    """Return the epoch whose weights a run tests at its end; None for the best on validation."""
    return None if cfg.TEST.FINAL_MODEL == "best_val" else cfg.OPTIM.MAX_EPOCH


class FinishedRun:
    """The folder of a run of train.py.

    Args:
        folder: Path of the folder.

    Attributes:
        folder: The same as a Path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @cached_property
    def cfg(self) -> CfgNode:
        """The configuration.

        Raises:
            UserError: The folder holds no run.
        """
        return read_config(self.folder)

    @cached_property
    def results(self) -> Any:
        """The content of results.json.

        Raises:
            OSError: The file is missing.
            UserError: It is damaged.
        """
        path = self.folder / "results.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from error

    def predictions(self) -> list[dict[str, str]]:
        """Return the rows of predictions.csv as {column: text}; no rows if the file is missing."""
        path = self.folder / "predictions.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def settings(self) -> dict[str, Any]:
        """Return config.yaml as {"A.B.C": value}, without defaults; nothing without that file."""
        path = self.folder / "config.yaml"
        return read_flat(path) if path.is_file() else {}

    @property
    def epoch(self) -> int | None:
        """The epoch whose weights the results belong to; None for the best on validation."""
        return final_epoch(self.cfg)

    def weights(self) -> list[Path]:
        """Return the paths of the checkpoints that the results belong to, one for each trained model."""
        return sorted(self.folder.glob(f"*/{checkpoint_name(self.epoch)}"))

    def trainer(self, root: str | None = None) -> Any:
        """Return the run's trainer with its data and its weights, in evaluation mode.

        The run's seed draws the same few-shot images again.

        Args:
            root: Folder of the data sets; the run's if None.

        Raises:
            OSError: The data or the weights are missing.
            ValueError: The data or the weights do not fit.
        """
        from dassl.engine import build_trainer  # here, because it imports torch

        load_plugins()
        cfg = read_config(self.folder, {"DATASET.ROOT": root}) if root else self.cfg
        set_determinism(cfg.SEED)
        with contextlib.redirect_stdout(io.StringIO()):  # log.txt of the run has it
            trainer = build_trainer(cfg)
            trainer.load_model(str(self.folder), epoch=self.epoch)
        trainer.set_model_mode("eval")
        return trainer
