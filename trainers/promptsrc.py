"""PromptSRC (arXiv 2307.06948): prompts in both towers, held near zero-shot CLIP and averaged over the epochs.

loss = CE + TEXT_WEIGHT |t - t0| + IMAGE_WEIGHT |f - f0| + KL(zero-shot | learned), with text features t, image features
f and those of zero-shot CLIP, t0 and f0; |.| is the mean absolute value, KL a mean over images. The trained prompts are
the mean of those after each epoch, weighted by a normal density over the epochs. "aggregate" holds it.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from sotglp.deep import DeepPromptedCLIP, DeepPrompts, check_depth, first_context, random_prompts
from sotglp.matching import similarities
from sotglp.prompts import encode_names
from sotglp.templates import ENSEMBLE, template_of
from sotglp.toolbox.trainer import CLIPTrainer


class RegularisedSimilarities(NamedTuple):
    """Similarities, and the normalised image features; those of zero-shot CLIP in training only."""

    g: torch.Tensor  # (B, C, 1)
    s: None
    image: torch.Tensor  # (B, D)
    zero_shot: torch.Tensor | None  # (B, D)


class IndependentPrompts(DeepPrompts):
    """Prompts of the first J blocks of each tower."""

    def __init__(self, clip, prompts, depth):
        super().__init__(prompts, depth)
        self.image = random_prompts(depth, prompts.context.shape[1], len(clip.visual.proj))

    def image_prompts(self):
        return list(self.image)


class RegularisedCLIP(DeepPromptedCLIP):
    """Prompts in both towers, and zero-shot CLIP beside them.

    Args:
        clip: frozen here.
        learned: the prompts.
        anchor: zero-shot CLIP's normalised text features (C, D).
    """

    def __init__(self, clip, learned, anchor):
        super().__init__(clip, learned)
        self.register_buffer("anchor", anchor, persistent=False)

    def features(self, images):
        """Return the class tokens (B, W), and those of zero-shot CLIP; None in a test."""
        class_token, _ = super().features(images)
        with torch.no_grad():
            return class_token, self.clip.visual(images, local=None)[0] if self.learned.training else None

    def match(self, features, text):
        """Return the RegularisedSimilarities of ``features``."""
        image, zero_shot = (None if tokens is None else self.to_joint(tokens) for tokens in features)
        return RegularisedSimilarities(similarities(image, text), None, image, zero_shot)


@TRAINER_REGISTRY.register()
class PromptSRC(CLIPTrainer):
    """Self-regulating Prompts: Foundational Model Adaptation without Forgetting, https://arxiv.org/abs/2307.06948"""

    NODE = "PROMPTSRC"
    DEFAULTS = dict(
        N_CTX=4,  # prompts of a block, in each tower
        CTX_INIT="a photo of a",  # words whose first N_CTX the first text prompts start from; random if empty
        DEPTH=9,  # blocks with prompts
        TEXT_WEIGHT=25.0,  # of the difference of text features from zero-shot CLIP's
        IMAGE_WEIGHT=10.0,  # of the difference of image features
        GPA_MEAN=0.9,  # mean of the density that weights the epochs, as a share of all epochs: 45 of 50
        GPA_STD=0.1,  # its standard deviation, as a share: 5 of 50
        PREC="fp16",  # fp32, amp or fp16
    )
    RANGES = {
        "N_CTX": "[1, inf)",
        "DEPTH": "[1, inf)",
        "TEXT_WEIGHT": "[0, inf)",
        "IMAGE_WEIGHT": "[0, inf)",
        "GPA_STD": "(0, inf)",
    }

    def build_model(self):
        """Also register the mean of the prompts, which starts at 0."""
        super().build_model()
        self.aggregate = copy.deepcopy(self.model.learned)
        for parameter in self.aggregate.parameters():
            parameter.requires_grad_(False).zero_()
        self.register_model("aggregate", self.aggregate)

    def make_model(self, clip, names):
        node = self.node
        check_depth(clip, node.DEPTH, "TRAINER.PROMPTSRC.DEPTH")
        anchor = encode_names(clip, names, [*ENSEMBLE, template_of(self.cfg.DATASET.NAME)])
        prompts = first_context(clip, names, node.N_CTX, node.CTX_INIT)
        return RegularisedCLIP(clip, IndependentPrompts(clip, prompts, node.DEPTH), anchor)

    def losses(self, match, targets, text):
        anchor, logits = self.model.anchor, self.scores(match)
        zero_shot = self.model.logit_scale * match.zero_shot @ anchor.T
        log_p, log_q = (x.float().log_softmax(dim=1) for x in (logits, zero_shot))
        return {
            **super().losses(match, targets, text),
            "text": self.node.TEXT_WEIGHT * F.l1_loss(text[:, 0].float(), anchor),
            "image": self.node.IMAGE_WEIGHT * F.l1_loss(match.image.float(), match.zero_shot.float()),
            "kl": F.kl_div(log_p, log_q, log_target=True, reduction="batchmean"),
        }

    def epoch_weights(self):
        """Return the weights (epochs,) of the prompts after each epoch; their sum is 1."""
        epochs = torch.arange(1, self.max_epoch + 1, dtype=torch.float64)
        mean, std = self.node.GPA_MEAN * self.max_epoch, self.node.GPA_STD * self.max_epoch
        return (-((epochs - mean) ** 2) / (2 * std**2)).softmax(dim=0)

    def after_epoch(self):
        """Add the epoch's prompts to their mean, which replaces them after the last epoch."""
        weight = self.epoch_weights()[self.epoch].item()
        for total, parameter in zip(self.aggregate.parameters(), self.model.learned.parameters(), strict=True):
            total.add_(parameter.detach(), alpha=weight)
        if self.epoch + 1 == self.max_epoch:
            self.model.learned.load_state_dict(self.aggregate.state_dict())
        super().after_epoch()
