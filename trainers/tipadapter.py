"""Tip-Adapter (arXiv 2111.03930): zero-shot CLIP with a cache of the few training images.

logits of an image x = scale * x . t + alpha * exp(-beta (1 - x . K)) V, with text features t, keys K (features of the
training images) and values V (their classes, one-hot). Tip-Adapter learns nothing; Tip-Adapter-F learns the keys.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.matching import similarities
from sotglp.prompted import Similarities
from sotglp.toolbox.trainer import CLIPTrainer

LARGEST, STEPS = {"beta": 7.0, "alpha": 3.0}, {"beta": 200, "alpha": 20}  # of the published search, which starts at 0.1


class Cache(nn.Module):
    """Training images as a classifier: keys (n, D) are their features, values (n, C) their classes, one-hot.

    Keys that are not learned are a sum over views, and normalised at use. Loading a state dict takes over its number of
    images, so a predictor needs no training images.

    Args:
        labels: of the n training images.
        n_classes: C.
        width: D.
        alpha: weight of the cache.
        beta: sharpness of its affinities.
        finetuned: whether the keys are learned.
    """

    def __init__(self, labels, n_classes, width, alpha, beta, finetuned):
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(len(labels), width), requires_grad=finetuned)
        self.register_buffer("values", F.one_hot(torch.tensor(labels).long(), n_classes).float())
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        n_images = len(state_dict.get(f"{prefix}keys", self.keys))
        for tensor in (self.keys, self.values):
            tensor.data = tensor.data.new_zeros(n_images, tensor.shape[1])  # the optimizer keeps the parameter
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def affinities(self, images):
        """Return the cosines (B, n) of normalised image features (B, D) and the keys."""
        return images @ (self.keys if self.keys.requires_grad else F.normalize(self.keys, dim=-1)).T

    def logits(self, affinities, beta):
        """Return the logits (B, C) of affinities (B, n), without the factor alpha."""
        return torch.exp(-beta * (1 - affinities)) @ self.values

    def forward(self, images):
        """Return the cache's logits (B, C) of normalised image features (B, D)."""
        return self.alpha * self.logits(self.affinities(images), self.beta)


class CachedCLIP(PromptedCLIP):
    """Fixed text features (C, D) and a cache."""

    def __init__(self, clip, text, cache):
        super().__init__(clip, cache)
        self.register_buffer("text", text, persistent=False)

    def encode_text(self):
        return self.text.unsqueeze(1)  # (C, 1, D)

    def match(self, features, text):
        """Return Similarities with g (B, C, 1): cosines with the text, plus the cache's logits over the logit scale."""
        g, s = super().match(features, text)
        cached = self.learned(self.to_joint(features[0]))
        return Similarities(g + cached.unsqueeze(-1) / self.logit_scale, s)


class CacheTrainer(CLIPTrainer):
    """The base of both variants. After the last epoch it searches alpha and beta on the validation images, if any."""

    FINETUNED = False
    class_specific = True

    DEFAULTS = dict(
        ALPHA=1.0,  # weight of the cache, before the search
        BETA=5.5,  # sharpness of its affinities, before the search
        PREC="fp16",  # fp32, amp or fp16
    )
    RANGES = {"ALPHA": "[0, inf)", "BETA": "[0, inf)"}

    def make_model(self, clip, names):
        text = self.zero_shot_text(clip, names)
        labels = [item.label for item in self.dm.dataset.train_x]
        return CachedCLIP(clip, text, Cache(labels, *text.shape, self.node.ALPHA, self.node.BETA, self.FINETUNED))

    def add_view(self):
        """Add the features of an augmented view of each training image to its key."""
        transform = self.train_loader_x.dataset.transform
        features, _ = self.encode_images(self.loader_of(self.dm.dataset.train_x, transform))
        self.model.learned.keys.data += features

    def after_epoch(self):
        """After the last epoch also search alpha and beta."""
        if self.epoch + 1 == self.max_epoch and self.val_loader is not None:
            self.search()
        super().after_epoch()

    @torch.no_grad()
    def search(self):
        """Keep the first alpha and beta that are best on the validation images; the current ones are tried first."""
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
        cache.alpha.fill_(found[0])
        cache.beta.fill_(found[1])
        print(f"alpha {found[0]:.2f} and beta {found[1]:.2f}: {best} of {len(labels)} validation images")


@TRAINER_REGISTRY.register()
class TipAdapter(CacheTrainer):
    """Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, https://arxiv.org/abs/2111.03930

    An epoch adds a view of each training image to its key.
    """

    NODE = "TIPADAPTER"

    def run_epoch(self):
        """Add a view; there are no training steps."""
        self.add_view()


@TRAINER_REGISTRY.register()
class TipAdapterF(CacheTrainer):
    """Tip-Adapter-F, of the same paper: keys start as normalised sums over views, and are then learned."""

    NODE = "TIPADAPTERF"
    FINETUNED = True

    DEFAULTS = dict(
        **CacheTrainer.DEFAULTS,
        VIEWS=10,  # of each training image, summed before training
    )
    RANGES = {**CacheTrainer.RANGES, "VIEWS": "[1, inf)"}

    def before_train(self):
        """Also make the keys, unless the run is continued."""
        super().before_train()
        if self.start_epoch == self.start_batch == 0:
            for _ in range(self.node.VIEWS):
                self.add_view()
            keys = self.model.learned.keys.data
            keys.copy_(F.normalize(keys, dim=-1))
