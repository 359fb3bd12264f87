"""SOT-GLP in pure PyTorch: local-global prompt learning of a frozen CLIP via sparse optimal transport."""

from sotglp.backbones import load_clip
from sotglp.clip import CLIP
from sotglp.loss import draw_prompts, kept_prompts, sotglp_loss
from sotglp.model import SOTGLP, Match
from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, context_from_text
from sotglp.scores import energy, gl_mcm, l_mcm, max_logit, mcm, ood_scores, predict
from sotglp.transport import transport_plan

__version__ = "0.1.0"
__all__ = [
    "CLIP",
    "SOTGLP",
    "Match",
    "PromptedCLIP",
    "Prompts",
    "context_from_text",
    "draw_prompts",
    "energy",
    "gl_mcm",
    "kept_prompts",
    "l_mcm",
    "load",
    "load_clip",
    "max_logit",
    "mcm",
    "ood_scores",
    "predict",
    "sotglp_loss",
    "transport_plan",
]


def load(run, classnames=None):
    """The predictor of a trained run's folder: ``sotglp.predictor.load``, which needs the toolbox of the checkout."""
    try:
        from sotglp.predictor import load
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: sotglp.load needs the checkout, put its folder on PYTHONPATH") from error
    return load(run, classnames)
