"""A finished run, loaded as a predictor: its trainer without its data."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY
from dassl.finished import FinishedRun
from dassl.plugins import load_plugins
from dassl.utils import UserError, load_checkpoint, load_pretrained_weights, one_line_warnings
from sotglp.toolbox.predictor import Predictor
from sotglp.toolbox.trainer import CLIPTrainer

MOST = 4 * 2**30  # bytes of a checkpoint: beside a frozen CLIP, no method learns as much


def check_kind(run: FinishedRun) -> type[CLIPTrainer]:
    """Return the trainer's class of a run.

    Raises:
        UserError: it is no CLIPTrainer.
    """
    # Data sets are not needed here, and Hugging Face has a package of that name.
    skipped = load_plugins(leave_out=("datasets",))
    kinds = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    ours = {name: kind for name, kind in kinds.items() if issubclass(kind, CLIPTrainer)}
    name = run.cfg.TRAINER.NAME
    if name not in ours:
        unavailable = "".join(f"; plugin {plugin} is unavailable ({reason})" for plugin, reason in skipped.items())
        raise UserError(f"{run.folder} is a run of {name}: give one of {', '.join(ours) or 'none'}{unavailable}")
    return ours[name]


@one_line_warnings()
def load(run: str | Path, classnames: Sequence[str] | None = None) -> Predictor:
    """Return the Predictor of a run. The folder may have been moved, and the data set may be missing.

    Args:
        run: the run's folder.
        classnames: other classes than the run's. A method that learns nothing of single classes takes any. SOT-GLP
            then uses its global prompts alone, with a warning. Other methods refuse them.

    Raises:
        OSError, UserError: the folder is no run of a CLIPTrainer, its weights are missing, or the method cannot
            predict the classes.
    """
    finished = FinishedRun(run)
    kind, cfg, folder = check_kind(finished), finished.cfg, finished.folder
    weights = finished.weights()
    checkpoint = load_checkpoint(str(weights[0]), MOST) if weights else {}
    # A method that learns nothing has no checkpoint, but results.
    results = folder / "results.json"
    made_with = checkpoint.get("made_with") or (finished.results if results.is_file() else {})
    learned = made_with.get("classnames")
    names = learned if classnames is None else list(classnames)
    if names is None:
        raise UserError(f"neither a checkpoint of {folder} nor {results} names the classes: give class names")
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError("class names are one or more words each, and there must be one class at least")
    with contextlib.redirect_stdout(io.StringIO()):  # the run's own log.txt holds the log of the set-up
        trainer = without_data(kind, cfg, names)
        settings = {} if names == learned else trainer.settings_for_new_classes()
        if settings is None:
            raise UserError(f"{cfg.TRAINER.NAME} learned something of each of the run's classes: it predicts no others")
        changed = {key: value for key, value in settings.items() if trainer.node[key] != value}
        if changed:
            cfg.defrost()
            cfg.TRAINER[kind.NODE].update(changed)
            trainer = without_data(kind, cfg, names)
            load_pretrained_weights(trainer.model.learned, str(weights[0]))
        else:
            trainer.load_model(str(folder), epoch=finished.epoch)
        trainer.set_model_mode("eval")
        predictor = Predictor(folder, trainer, checkpoint.get("epoch"), names == learned)
    if changed:
        shown = ", ".join(f"{key} {value}" for key, value in changed.items())
        warnings.warn(f"other classes are predicted by what {kind.NODE} shares among classes ({shown})", stacklevel=2)
    return predictor


def without_data(kind: Any, cfg: CfgNode, names: Sequence[str]) -> CLIPTrainer:
    """Return a trainer that has the names of its classes, but no images.

    Args:
        kind: the trainer's class (Any, as mypy takes no other variable as a base).
        cfg: of the run.
        names: of the classes.
    """

    class WithoutData(kind):
        def build_data_loader(self) -> None:
            self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=names, train_x=[]))
            self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
            self.num_classes, self.lab2cname = len(names), dict(enumerate(names))

    return WithoutData(cfg)
