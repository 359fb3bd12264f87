"""2SFS (CVPR 2025, arXiv 2503.11609): first the layer norms of both towers, then a classifier on what they give.

The first stage tunes the norms inside the blocks with the prompts of the classes. The second one freezes them and
learns a vector of each class, which starts as its text feature. Each has a cosine of its own over its steps, to 1e-6.
Classes that were not trained are predicted by the tuned text tower.

As in the authors' code, the norms before and after the blocks never change, the logit scale is CLIP's own, and the text
is "a photo of a {}." on every data set.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import CLIP, PromptedCLIP
from sotglp.prompts import tokenize
from sotglp.templates import DEFAULT
from sotglp.toolbox.trainer import CLIPTrainer


class NormsAndClassifier(nn.Module):
    """The learned norms of both towers, and a vector of each class.

    Args:
        norms: layer norms of the towers themselves.
        n_classes: C; 0 if there is no second stage.
        width: D.

    Attributes:
        second: whether the second stage has begun; checkpoints hold it.
    """

    def __init__(self, norms, n_classes, width):
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.register_parameter("classifier", nn.Parameter(torch.zeros(n_classes, width)) if n_classes else None)
        self.register_buffer("second", torch.tensor(False))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        if self.classifier is None:  # other classes: the norms alone serve them
            state_dict.pop(f"{prefix}classifier", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class TunedCLIP(PromptedCLIP):
    """Towers whose norms are learned, and text or a classifier.

    Args:
        clip: frozen here, but for the norms in the blocks.
        ids: BPE ids (C, L) of the texts.
        starts: first block of the image tower and of the text tower whose norms are learned.
        classifier: whether there is a second stage.
    """

    frozen_images = False

    def __init__(self, clip, ids, starts, classifier):
        towers = clip.visual.transformer, clip.transformer
        blocks = [block for tower, start in zip(towers, starts, strict=True) for block in tower.resblocks[start:]]
        norms = [norm for block in blocks for norm in (block.ln_1, block.ln_2)]
        super().__init__(clip, NormsAndClassifier(norms, len(ids) if classifier else 0, clip.visual.proj.shape[1]))
        self.register_buffer("ids", ids, persistent=False)
        self.learned.norms.requires_grad_()

    @property
    def classifies(self):
        """Whether the classifier stands in the place of text."""
        return self.learned.classifier is not None and bool(self.learned.second)

    def features(self, images):
        """Return the class tokens (B, W), and None; unlike in the base class with gradients."""
        return self.clip.visual(images, self.local)

    def encode_text(self):
        """Return normalised text features, or the classifier's vectors, (C, 1, D)."""
        text = self.learned.classifier if self.classifies else self.clip.encode_text(self.ids)
        return F.normalize(text, dim=-1).unsqueeze(1)


@TRAINER_REGISTRY.register()
class TwoSFS(CLIPTrainer):
    """Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages, https://arxiv.org/abs/2503.11609"""

    NODE = "TWOSFS"
    BACKBONE = CLIP
    LR_MIN = 1e-6
    DEFAULTS = dict(
        SHARE=0.6,  # of the epochs, in the first stage
        CLASSIFIER=True,  # whether there is a second stage; False: the tuned towers alone, for any classes
        IMAGE_START=0,  # first block of the image tower whose norms are learned
        TEXT_START=0,  # and of the text tower
        PREC="amp",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"SHARE": "[0, 1]", "IMAGE_START": "[0, inf)", "TEXT_START": "[0, inf)"}

    @property
    def class_specific(self):
        return self.node.CLASSIFIER

    def settings_for_new_classes(self):
        return {"CLASSIFIER": False}

    def make_model(self, clip, names):
        node = self.node
        return TunedCLIP(clip, tokenize(clip, names, [DEFAULT]), (node.IMAGE_START, node.TEXT_START), node.CLASSIFIER)

    @property
    def first_epochs(self):
        """Number of epochs of the first stage."""
        epochs = self.cfg.OPTIM.MAX_EPOCH
        return int(epochs * self.node.SHARE) if self.node.CLASSIFIER else epochs

    @property
    def schedule_epochs(self):
        first = self.first_epochs
        return max(self.cfg.OPTIM.MAX_EPOCH - first if self.model.learned.second else first, 1)

    def choose_stage(self, epoch):
        """Train the norms in the first epochs, then the classifier.

        The optimizer has no moments of the classifier yet, so it is as good as a new one.
        """
        learned = self.model.learned
        if epoch >= self.first_epochs and self.node.CLASSIFIER and not learned.second:
            self.set_model_mode("eval")
            with torch.no_grad(), self.precision.autocast():
                learned.classifier.copy_(self.model.encode_text()[:, 0])
            learned.second.fill_(True)
            self.restart_schedule()
        learned.norms.requires_grad_(not learned.second)
        if learned.classifier is not None:
            learned.classifier.requires_grad_(bool(learned.second))
