"""PromptSRC (arXiv 2307.06948): prompts in both towers, held near zero-shot CLIP and averaged over the epochs.

loss = CE + TEXT_LOSS_WEIGHT |t - t0| + IMAGE_LOSS_WEIGHT |f - f0| + KL(zero-shot | learned), with text features t,
image features f and those of zero-shot CLIP, t0 and f0; |.| is the mean absolute value. The trained prompts are the
mean of those after each epoch, the last one too, weighted by a normal density over the epochs. "aggregate" holds it.

As in the authors' code, KL is a sum over images and classes, divided by the number of logits, and t0 is the mean over
sixty templates of features that are not normalised yet.
"""

import copy
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from sotglp import CLIP
from sotglp.deep import DeepPromptedCLIP, DeepPrompts, check_depth, first_context, random_prompts
from sotglp.matching import similarities
from sotglp.prompts import encode_names
from sotglp.templates import SIXTY
from sotglp.toolbox.trainer import CLIPTrainer


class RegularisedSimilarities(NamedTuple):
    """Similarities, and the normalised image features; those of zero-shot CLIP in training only."""

    g: torch.Tensor  # (B, C, 1)
    s: None
    image: torch.Tensor  # (B, D)
    zero_shot: torch.Tensor | None  # (B, D)


class IndependentPrompts(DeepPrompts):
    """Prompts of the first blocks of each tower.

    Args:
        prompts: with the context of the text tower's first block.
        depth: blocks of the text tower.
        image_blocks, image_tokens, image_width: blocks of the image tower, prompts of each and their width.
    """

    def __init__(self, prompts, depth, image_blocks, image_tokens, image_width):
        super().__init__(prompts, depth)
        self.image = random_prompts(image_blocks, image_tokens, image_width)

    def image_prompts(self):
        return list(self.image)


class RegularisedCLIP(DeepPromptedCLIP):
    """Prompts in both towers, and zero-shot CLIP beside them.

    Args:
        clip: frozen here.
        learned: the prompts.
        names: of the classes.
    """

    def __init__(self, clip, learned, names):
        super().__init__(clip, learned)
        self.names = names

    @cached_property
    def anchor(self):
        """Zero-shot CLIP's normalised text features (C, D). Only training reads them: they are sixty texts a class."""
        with torch.autocast(self.clip.logit_scale.device.type, enabled=False):
            return encode_names(self.clip, self.names, SIXTY, normalise=False)

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
    BACKBONE = CLIP
    DEFAULTS = dict(
        N_CTX_TEXT=4,  # prompts of a block of the text tower
        N_CTX_VISION=4,  # of the image tower
        CTX_INIT="a photo of a",  # words whose first N_CTX_TEXT the first text prompts start from; random if empty
        PROMPT_DEPTH_TEXT=9,  # blocks with prompts in the text tower
        PROMPT_DEPTH_VISION=9,  # in the image tower
        TEXT_LOSS_WEIGHT=25.0,  # of the difference of text features from zero-shot CLIP's
        IMAGE_LOSS_WEIGHT=10.0,  # of the difference of image features
        GPA_MEAN=45.0,  # mean of the density that weights the epochs, in epochs
        GPA_STD=5.0,  # its standard deviation, in epochs
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {
        **{key: "[1, inf)" for key in ("N_CTX_TEXT", "N_CTX_VISION", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION")},
        **{"TEXT_LOSS_WEIGHT": "[0, inf)", "IMAGE_LOSS_WEIGHT": "[0, inf)", "GPA_STD": "(0, inf)"},
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
        check_depth(clip, node.PROMPT_DEPTH_TEXT, "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT")
        check_depth(clip.visual, node.PROMPT_DEPTH_VISION, "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION")
        text = first_context(clip, names, node.N_CTX_TEXT, node.CTX_INIT)
        of_images = node.PROMPT_DEPTH_VISION, node.N_CTX_VISION, len(clip.visual.proj)
        prompts = IndependentPrompts(text, node.PROMPT_DEPTH_TEXT, *of_images)
        return RegularisedCLIP(clip, prompts, names)

    def losses(self, match, targets, text):
        anchor, logits = self.model.anchor, self.scores(match)
        zero_shot = self.model.logit_scale * match.zero_shot @ anchor.T
        log_p, log_q = (x.float().log_softmax(dim=1) for x in (logits, zero_shot))
        return {
            **super().losses(match, targets, text),
            "text": self.node.TEXT_LOSS_WEIGHT * F.l1_loss(text[:, 0].float(), anchor),
            "image": self.node.IMAGE_LOSS_WEIGHT * F.l1_loss(match.image.float(), match.zero_shot.float()),
            "kl": F.kl_div(log_p, log_q, log_target=True, reduction="sum") / log_p.numel(),
        }

    def after_epoch(self):
        """Add the epoch's prompts to their mean, which replaces them after the last epoch."""
        weight = epoch_weights(self.max_epoch, self.node.GPA_MEAN, self.node.GPA_STD)[self.epoch].item()
        for total, parameter in zip(self.aggregate.parameters(), self.model.learned.parameters(), strict=True):
            total.add_(parameter.detach(), alpha=weight)
        if self.epoch + 1 == self.max_epoch:
            self.model.learned.load_state_dict(self.aggregate.state_dict())
        super().after_epoch()


def epoch_weights(epochs, mean, std):
    """Return the weights (epochs,) of the prompts after each epoch, a normal density of 1, 2, ...; their sum is 1."""
    numbers = torch.arange(1, epochs + 1, dtype=torch.float64)
    return (-((numbers - mean) ** 2) / (2 * std**2)).softmax(dim=0)
