"""Tip-Adapter: zero-shot CLIP with a cache of the few training images."""

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.matching import similarities
from sotglp.prompted import Similarities
from sotglp.prompts import encode_names
from sotglp.templates import template_of
from sotglp.trainer import CLIPTrainer

LARGEST, STEPS = {"beta": 7.0, "alpha": 3.0}, {"beta": 200, "alpha": 20}  # of the published search, from 0.1 on


class Cache(nn.Module):
    """Training images as a classifier: keys (n, D) are their features, values (n, C) their classes, one-hot.

    Keys that are not learned are normalised where they are used, so that they may be a sum over views. A state dict
    brings its own number of images, so that none of them is needed to use it.
    """

    def __init__(self, labels, n_classes, width, alpha, beta, finetuned):
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(len(labels), width), requires_grad=finetuned)
        self.register_buffer("values", F.one_hot(torch.tensor(labels).long(), n_classes).float())
        self.register_buffer("alpha", torch.tensor(float(alpha)))  # weight of the cache
        self.register_buffer("beta", torch.tensor(float(beta)))  # sharpness of its affinities

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        n_images = len(state_dict.get(f"{prefix}keys", self.keys))
        for tensor in (self.keys, self.values):
            tensor.data = tensor.data.new_zeros(n_images, tensor.shape[1])  # the optimizer holds this very parameter
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def affinities(self, images):
        """Of normalised image features (B, D) and the keys: (B, n)."""
        return images @ (self.keys if self.keys.requires_grad else F.normalize(self.keys, dim=-1)).T

    def logits(self, affinities, beta):
        """(B, C), before alpha."""
        return torch.exp(-beta * (1 - affinities)) @ self.values

    def forward(self, images):
        return self.alpha * self.logits(self.affinities(images), self.beta)


class CachedCLIP(PromptedCLIP):
    """Fixed text features (C, D) and a cache."""

    def __init__(self, clip, text, cache):
        super().__init__(clip, cache)
        self.register_buffer("text", text, persistent=False)

    def encode_text(self):
        return self.text.unsqueeze(1)  # (C, 1, D)

    def match(self, features, text):
        """Similarities with g (B, C, 1): the cosines with the text, plus the cache's logits over the logit scale."""
        g, s = super().match(features, text)
        cached = self.learned(self.to_joint(features[0]))
        return Similarities(g + cached.unsqueeze(-1) / self.logit_scale, s)


class CacheTrainer(CLIPTrainer):
    """After the last epoch alpha and beta are searched for on the validation images; without any they stay."""

    FINETUNED = False
    class_specific = True

    @classmethod
    def extend_cfg(cls, cfg):
        cfg.TRAINER[cls.NODE] = node = CN()
        node.ALPHA = 1.0  # weight of the cache, before the search
        node.BETA = 5.5  # sharpness of its affinities, before the search
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        text = encode_names(clip, names, [template_of(self.cfg.DATASET.NAME)])
        labels = [item.label for item in self.dm.dataset.train_x]
        return CachedCLIP(clip, text, Cache(labels, *text.shape, self.node.ALPHA, self.node.BETA, self.FINETUNED))

    def add_view(self):
        transform = self.train_loader_x.dataset.transform
        features, _ = self.encode_images(self.loader_of(self.dm.dataset.train_x, transform))
        self.model.learned.keys.data += features

    def after_epoch(self):
        if self.epoch + 1 == self.max_epoch and self.val_loader is not None:
            self.search()
        super().after_epoch()

    @torch.no_grad()
    def search(self):
        """Keep the first alpha and beta that are best on the validation images, those there are among them."""
        cache, text = self.model.learned, self.model.encode_text()
        images, labels = self.encode_images(self.encoded(self.val_loader))
        images = F.normalize(images, dim=-1)
        affinities, zero_shot = cache.affinities(images), self.model.logit_scale * similarities(images, text)[..., 0]
        alphas, betas = (torch.linspace(0.1, LARGEST[name], STEPS[name]).tolist() for name in ("alpha", "beta"))
        best = -1
        for beta, of_beta in [(cache.beta.item(), [cache.alpha.item()]), *((beta, alphas) for beta in betas)]:
            logits = cache.logits(affinities, beta)
            for alpha in of_beta:
                hits = ((zero_shot + alpha * logits).argmax(dim=1) == labels).sum().item()
                if hits > best:
                    best, found = hits, (alpha, beta)
        cache.alpha.fill_(found[0]), cache.beta.fill_(found[1])
        print(f"alpha {found[0]:.2f} and beta {found[1]:.2f}: {best} of {len(labels)} validation images")


@TRAINER_REGISTRY.register()
class TipAdapter(CacheTrainer):
    """Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, https://arxiv.org/abs/2111.03930

    An epoch adds a view of each training image to its key.
    """

    NODE = "TIPADAPTER"

    def run_epoch(self):
        self.add_view()


@TRAINER_REGISTRY.register()
class TipAdapterF(CacheTrainer):
    """Tip-Adapter-F, of the same paper: the keys, normalised means over views, are then learned."""

    NODE = "TIPADAPTERF"
    FINETUNED = True

    @classmethod
    def extend_cfg(cls, cfg):
        super().extend_cfg(cfg)
        cfg.TRAINER[cls.NODE].VIEWS = 10  # of each training image

    def before_train(self):
        super().before_train()
        if self.start_epoch == self.start_batch == 0:
            for _ in range(self.node.VIEWS):
                self.add_view()
            keys = self.model.learned.keys.data
            keys.copy_(F.normalize(keys, dim=-1))
