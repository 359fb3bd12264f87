"""CLAP (CVPR 2024, arXiv 2312.12730): a linear probe that starts at zero-shot CLIP, and is held near it class by class.

Learned are prototypes w_k, at first the text features t_k. The loss is the cross-entropy of scale * cosine(x, w_k) plus
the mean over classes of m_k |w_k - t_k|^2. The multiplier m_k is the mean zero-shot probability of class k on its own
training images: what zero-shot CLIP knows well may move less.

As in the authors' code, prototypes and text features are not normalised before they are compared, and features are
those of 20 augmented views of each image, encoded once. CONSTRAINT chooses the multipliers: those above (l2), divided
by their mean over classes (l2_corrected), this mean for all classes (l2_constant), 1 (l2_balanced), 0 (none: ZS-LP), or
those above, which grow after each epoch by the product of the last two epochs' |w_k - t_k|^2 (l2_adaptative). So the
first of these updates changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompts import encode_texts
from sotglp.toolbox.adapter import AdapterTrainer, TokenBatches, class_means

CONSTRAINTS = {  # {name: function (multipliers (C,) of l2) -> multipliers}
    "l2": lambda own: own,
    "l2_corrected": lambda own: own / own.mean(),
    "l2_constant": lambda own: own.mean().expand(len(own)),
    "l2_balanced": torch.ones_like,
    "l2_adaptative": lambda own: own,
    "none": torch.zeros_like,
}


class Prototypes(nn.Module):
    """A vector of each class in the place of its text feature.

    Args:
        text: (C, D), not normalised, where the prototypes start.

    Attributes:
        multipliers: (C,) of the constraint.
        distances: (C,) from the text after the last epoch, squared.
    """

    def __init__(self, text):
        super().__init__()
        self.weight = nn.Parameter(text.clone())
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("multipliers", torch.zeros(len(text)))
        self.register_buffer("distances", torch.zeros(len(text)))

    def forward(self, clip):
        return F.normalize(self.weight, dim=-1).unsqueeze(1)  # (C, 1, D)

    def moved(self):
        """Return the squared distances (C,) of the prototypes from the text."""
        return (self.weight - self.text).square().sum(dim=1)


@TRAINER_REGISTRY.register()
class CLAP(AdapterTrainer):
    """A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models, https://arxiv.org/abs/2312.12730"""

    NODE = "CLAP"
    DEFAULTS = dict(
        CONSTRAINT="l2",  # l2, l2_corrected, l2_constant, l2_balanced, l2_adaptative or none
        VIEWS=20,  # of each training image, all of which are in an epoch
        PREC="fp32",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"VIEWS": "[1, inf)"}

    def check_cfg(self, cfg):
        if cfg.TRAINER.CLAP.CONSTRAINT not in CONSTRAINTS:
            allowed = ", ".join(CONSTRAINTS)
            raise ValueError(f"TRAINER.CLAP.CONSTRAINT must be {allowed}, not {cfg.TRAINER.CLAP.CONSTRAINT!r}")

    def make_model(self, clip, names):
        return PromptedCLIP(clip, Prototypes(self.raw_text(clip, names)))

    def raw_text(self, clip, names):
        """Return text features (C, D) of class names in the hand-written templates, not normalised."""
        return encode_texts(clip, names, self.templates).mean(dim=1)

    def before_train(self):
        """Also encode the views, and compute the multipliers unless the run is continued."""
        super().before_train()
        tokens, labels = self.encode_views(self.node.VIEWS)
        if self.start_epoch == self.start_batch == 0:
            self.model.learned.multipliers.copy_(self.multipliers(tokens, labels))
        self.train_loader_x = TokenBatches(tokens, labels, self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE)

    @torch.no_grad()
    def multipliers(self, tokens, labels):
        """Return the multipliers (C,) of class tokens (n, W) and labels (n,), with the prototypes at their start."""
        match = self.model.match((tokens, None), self.model.encode_text())
        of_images = self.probabilities(match)["combined"]
        own = class_means(of_images, labels, self.num_classes).diagonal()
        return CONSTRAINTS[self.node.CONSTRAINT](own)

    def losses(self, match, targets, text):
        learned = self.model.learned
        return {**super().losses(match, targets, text), "constraint": (learned.multipliers * learned.moved()).mean()}

    @torch.no_grad()
    def after_epoch(self):
        """Also let the multipliers of l2_adaptative grow."""
        learned = self.model.learned
        if self.node.CONSTRAINT == "l2_adaptative":
            moved = learned.moved()
            learned.multipliers += learned.distances * moved
            learned.distances.copy_(moved)
        super().after_epoch()
