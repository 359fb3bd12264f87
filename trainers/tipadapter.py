"""Tip-Adapter (arXiv 2111.03930): zero-shot CLIP with a cache of the few training images.

logits of an image x = scale * x . t + alpha * exp(-beta (1 - x . K)) V, with text features t, keys K (features of the
training images) and values V (their classes, one-hot). Tip-Adapter learns nothing; Tip-Adapter-F learns the keys.

As in the authors' code, the logit scale is 100 whatever CLIP's is, a key is the sum of its views' features before they
are normalised, and the search for alpha and beta starts at 0.1 and leaves its end out. Their code takes the best epoch
of Tip-Adapter-F on the test images. Ours takes it on the validation images, with the alpha and beta of the training.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import ClassifiedCLIP
from sotglp.templates import ENSEMBLE
from sotglp.toolbox.adapter import AdapterTrainer, scale_logits


class Cache(nn.Module):
    """Training images as a classifier: keys (n, D) are their features, values (n, C) their classes, one-hot.

    Keys are a sum over views, and normalised at use. Loading a state dict takes over its number of images, so a
    predictor needs no training images.

    Args:
        labels: of the n training images.
        n_classes: C.
        width: D.
        alpha: weight of the cache.
        beta: sharpness of its affinities.
    """

    per_image = ("keys", "values")

    def __init__(self, labels, n_classes, width, alpha, beta):
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(len(labels), width), requires_grad=False)
        self.register_buffer("values", F.one_hot(torch.tensor(labels).long(), n_classes).float())
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        n_images = len(state_dict.get(f"{prefix}keys", self.keys))
        for tensor in (getattr(self, name) for name in self.per_image):
            tensor.data = tensor.data.new_zeros(n_images, tensor.shape[1])  # the optimizer keeps the parameter
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def affinities(self, images):
        """Return the cosines (B, n) of normalised image features (B, D) and the keys."""
        return images @ F.normalize(self.keys, dim=-1).T

    def logits(self, affinities, beta):
        """Return the logits (B, C) of affinities (B, n), without the factor alpha."""
        return torch.exp(-beta * (1 - affinities)) @ self.values

    def forward(self, images):
        """Return the cache's logits (B, C) of normalised image features (B, D)."""
        return self.alpha * self.logits(self.affinities(images), self.beta)


class LearnedCache(Cache):
    """A cache whose keys are learned, and used as they are.

    Attributes:
        best_keys: the keys (n, D) of the best epoch so far.
        best_hits: the number () of validation images that they classify right.
    """

    per_image = ("keys", "values", "best_keys")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.keys.requires_grad_()
        self.register_buffer("best_keys", self.keys.detach().clone())
        self.register_buffer("best_hits", torch.tensor(-1))

    def affinities(self, images):
        return images @ self.keys.T


class CacheTrainer(AdapterTrainer):
    """The base of both variants. After the last epoch it searches alpha and beta on the validation images, if any.

    They must be others than the test's, unlike ImageNet's.
    """

    CACHE = Cache

    DEFAULTS = dict(
        ALPHA=1.17,  # weight of the cache, before the search
        BETA=1.0,  # sharpness of its affinities, before the search
        SEARCH_SCALE=[7.0, 3.0],  # ends of the search for beta and alpha, which starts at 0.1
        SEARCH_STEP=[200, 20],  # values of beta and alpha that are tried
        LOGIT_SCALE=100.0,  # factor of the cosines with the text; 0: CLIP's own
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"ALPHA": "[0, inf)", "BETA": "[0, inf)", "LOGIT_SCALE": "[0, inf)"}

    @property
    def templates(self):
        return ENSEMBLE if self.cfg.DATASET.NAME == "ImageNet" else super().templates

    def make_model(self, clip, names):
        text, labels = self.zero_shot_text(clip, names), [item.label for item in self.dm.dataset.train_x]
        scale_logits(clip, self.node.LOGIT_SCALE)
        return ClassifiedCLIP(clip, text, self.CACHE(labels, *text.shape, self.node.ALPHA, self.node.BETA))

    def add_view(self):
        """Add the features of an augmented view of each training image to its key."""
        transform = self.train_loader_x.dataset.transform
        features, _ = self.encode_images(self.loader_of(self.dm.dataset.train_x, transform))
        self.model.learned.keys.data += features

    def after_epoch(self):
        """After the last epoch also search alpha and beta."""
        if self.epoch + 1 == self.max_epoch and self.validates:
            self.search()
        super().after_epoch()

    @torch.no_grad()
    def search(self):
        """Keep the first alpha and beta that are best on the validation images; return the hits (betas, alphas)."""
        cache, (images, zero_shot, labels) = self.model.learned, self.validation
        betas, alphas = (
            [0.1 + i * (scale - 0.1) / steps for i in range(steps)]
            for scale, steps in zip(self.node.SEARCH_SCALE, self.node.SEARCH_STEP, strict=True)
        )
        affinities, hits = cache.affinities(images), torch.zeros(len(betas), len(alphas), dtype=torch.long)
        for i, beta in enumerate(betas):
            logits = cache.logits(affinities, beta)
            for j, alpha in enumerate(alphas):
                hits[i, j] = ((zero_shot + alpha * logits).argmax(dim=1) == labels).sum()
        best = hits.argmax().item()  # the first of equals
        cache.beta.fill_(betas[best // len(alphas)])
        cache.alpha.fill_(alphas[best % len(alphas)])
        found = f"alpha {cache.alpha:.2f} and beta {cache.beta:.2f}"
        print(f"{found}: {hits.max()} of {len(labels)} validation images")
        return hits


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
    LR_MIN = 0.0
    CACHE = LearnedCache

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

    def after_epoch(self):
        """Also keep the keys of the best epoch on the validation images, and take them after the last."""
        if self.validates:
            self.keep_best()
        super().after_epoch()

    @torch.no_grad()
    def keep_best(self):
        """Keep the keys if they classify more validation images right than those of the epochs before."""
        cache, (images, zero_shot, labels) = self.model.learned, self.validation
        hits = ((zero_shot + cache(images)).argmax(dim=1) == labels).sum()
        if hits > cache.best_hits:
            cache.best_hits.copy_(hits)
            cache.best_keys.copy_(cache.keys)
        if self.epoch + 1 == self.max_epoch:
            cache.keys.copy_(cache.best_keys)
