"""PromptSRC: prompts of both towers held near zero-shot CLIP, and averaged over the epochs."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp.deep import DeepPromptedCLIP, check_depth, first_context, random_prompts
from sotglp.prompts import encode_names
from sotglp.templates import ENSEMBLE, template_of
from sotglp.trainer import CLIPTrainer


class RegularisedSimilarities(NamedTuple):
    """Similarities, and the normalised image features they are of; those of zero-shot CLIP in training only."""

    g: torch.Tensor  # (B, C, 1)
    s: None
    image: torch.Tensor  # (B, D)
    zero_shot: torch.Tensor | None  # (B, D)


class IndependentPrompts(nn.Module):
    """Prompts of the first J blocks of each tower."""

    def __init__(self, clip, prompts, depth):
        super().__init__()
        _, n_ctx, width = prompts.context.shape
        self.prompts, self.deep = prompts, random_prompts(depth - 1, n_ctx, width)
        self.image = random_prompts(depth, n_ctx, len(clip.visual.proj))

    def image_prompts(self):
        return list(self.image)


class RegularisedCLIP(DeepPromptedCLIP):
    """anchor: zero-shot CLIP's normalised text features (C, D)."""

    def __init__(self, clip, learned, anchor):
        super().__init__(clip, learned)
        self.register_buffer("anchor", anchor, persistent=False)

    def features(self, images):
        """Class tokens (B, W), and those of zero-shot CLIP, None in a test."""
        class_token, _ = super().features(images)
        with torch.no_grad():
            return class_token, self.clip.visual(images, local=None)[0] if self.learned.training else None

    def match(self, features, text):
        image, zero_shot = (None if tokens is None else self.to_joint(tokens) for tokens in features)
        g = super().match((features[0], None), text).g
        return RegularisedSimilarities(g, None, image, zero_shot)


@TRAINER_REGISTRY.register()
class PromptSRC(CLIPTrainer):
    """Self-regulating Prompts: Foundational Model Adaptation without Forgetting, https://arxiv.org/abs/2307.06948

    The divergence from zero-shot CLIP's prediction is a mean over images. What is tested and saved in the end is the
    mean of the prompts after each epoch, weighted by a normal density over the epochs; "aggregate" holds it.
    """

    NODE = "PROMPTSRC"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.PROMPTSRC = node = CN()
        node.N_CTX = 4  # prompts of a block, in each tower
        node.CTX_INIT = "a photo of a"  # words whose first N_CTX the text's start from; random if empty
        node.DEPTH = 9  # blocks with prompts
        node.TEXT_WEIGHT = 25.0  # of the mean absolute difference of text features from zero-shot CLIP's
        node.IMAGE_WEIGHT = 10.0  # of the same of image features
        node.GPA_MEAN = 0.9  # centre of the epochs' weights, as a share of all epochs: 45 of 50
        node.GPA_STD = 0.1  # their standard deviation alike: 5 of 50
        node.PREC = "fp16"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        if cfg.TRAINER.PROMPTSRC.GPA_STD <= 0:
            raise ValueError(f"TRAINER.PROMPTSRC.GPA_STD must be positive, got {cfg.TRAINER.PROMPTSRC.GPA_STD}")

    def build_model(self):
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
        """Weights (epochs,) of the prompts after each epoch; their sum is 1."""
        epochs = torch.arange(1, self.max_epoch + 1, dtype=torch.float64)
        mean, std = self.node.GPA_MEAN * self.max_epoch, self.node.GPA_STD * self.max_epoch
        return (-((epochs - mean) ** 2) / (2 * std**2)).softmax(dim=0)

    def after_epoch(self):
        weight = self.epoch_weights()[self.epoch].item()
        for total, parameter in zip(self.aggregate.parameters(), self.model.learned.parameters(), strict=True):
            total.add_(parameter.detach(), alpha=weight)
        if self.epoch + 1 == self.max_epoch:
            self.model.learned.load_state_dict(self.aggregate.state_dict())
        super().after_epoch()
