"""SOT-GLP's parts in pure PyTorch: local-global prompt learning of a frozen CLIP via sparse optimal transport.

The method itself is in `trainers/sotglp.py`. Only `sotglp.toolbox` imports the toolbox (`dassl`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotglp.backbones import load_clip
from sotglp.clip import CLIP
from sotglp.matching import Match
from sotglp.negatives import choose_negatives, neg_label
from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, context_from_text, draw_prompts, kept_prompts
from sotglp.scores import (
    energy,
    gl_mcm,
    l_mcm,
    l_neg_label,
    max_logit,
    mcm,
    off_support,
    ood_scores,
    plan_entropy,
    plan_logit,
)
from sotglp.transport import transport_plan

if TYPE_CHECKING:
    from sotglp.toolbox.predictor import Predictor

__version__ = "0.1.0"
__all__ = [
    "CLIP",
    "Match",
    "PromptedCLIP",
    "Prompts",
    "choose_negatives",
    "context_from_text",
    "draw_prompts",
    "energy",
    "fit",
    "gl_mcm",
    "kept_prompts",
    "l_mcm",
    "l_neg_label",
    "load",
    "load_clip",
    "max_logit",
    "mcm",
    "neg_label",
    "off_support",
    "ood_scores",
    "plan_entropy",
    "plan_logit",
    "transport_plan",
]


def fit(folder: str | Path, shots: int | str = 16, method: str = "SOTGLP", **settings: Any) -> "Predictor":
    """Train on a folder of images and return the predictor of the run (``scripts.fit.fit``, of which the rest is told).

    Args:
        folder: of images, with a folder for each class, or with a CSV file.
        shots: training images of each class, or "all".
        method: a trainer, or a name of the list of methods.
        settings: backbone, seed, output, options.

    Raises:
        ImportError: this process has imported another package called `dassl`.
        ValueError: a mistake in the images or the settings.
    """
    from sotglp.toolbox import offered

    return offered("fit")(folder, shots, method, **settings)


def load(run: str | Path, classnames: Sequence[str] | None = None) -> "Predictor":
    """Return the predictor of a trained run, in any working directory (``sotglp.toolbox.loading.load``).

    It has ``predict``, ``predict_proba`` and ``classes_``, as classifiers of scikit-learn.

    Args:
        run: the run's folder.
        classnames: other classes than the run's.

    Raises:
        ImportError: this process has imported another package called `dassl`.
    """
    from sotglp.toolbox import use_own_dassl

    use_own_dassl()
    from sotglp.toolbox.loading import load

    return load(run, classnames)
