"""GDA (ICLR 2024, arXiv 2402.04087): zero-shot CLIP with a Gaussian discriminant of the training images; no training.

logits of an image x = scale * x . t + alpha * (x . W + b). All classes share one covariance, estimated from normalised
features x of augmented views (n in all, of D dimensions, with class means mu):

    P = D ((n - 1) cov + trace(cov) I)^-1,  W = P mu,  b = log(1/C) - mu . W / 2.

As in the authors' code, the prior is uniform even if classes have different numbers of images, the logit scale is 100
whatever CLIP's is, and alpha is the first that is best on the validation images. Their code searches ImageNet's alpha
on the test images; ours keeps ALPHA where the validation images are those of the test.
"""

import math

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import ClassifiedCLIP
from sotglp.toolbox.adapter import AdapterTrainer, class_means, scale_logits


def shrunk_precision(centred):
    """Return the shrunk inverse (D, D) of the covariance of features (n, D) without the means of their classes."""
    (n, width), cov = centred.shape, centred.T.cov()
    shrunk = (n - 1) * cov + cov.trace() * torch.eye(width, dtype=cov.dtype, device=cov.device)
    return width * torch.linalg.pinv(shrunk, hermitian=True)


class Discriminant(nn.Module):
    """A linear classifier that is computed, with its weight alpha in the logits."""

    def __init__(self, n_classes, width, alpha):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_classes, width), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(n_classes), requires_grad=False)
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def fit(self, images, labels):
        """Compute the classifier of normalised image features (n, D) and labels (n,)."""
        device = "cpu" if images.device.type == "mps" else images.device  # MPS has no float64
        images, labels = images.to(device, torch.float64), labels.to(device)
        means = class_means(images, labels, len(self.bias))
        weight = means @ shrunk_precision(images - means[labels])
        self.weight.copy_(weight)
        self.bias.copy_(-math.log(len(means)) - (means * weight).sum(dim=1) / 2)

    def logits(self, images):
        """Return the logits (B, C) of normalised image features (B, D), without the factor alpha."""
        return images @ self.weight.T + self.bias

    def forward(self, images):
        return self.alpha * self.logits(images)


@TRAINER_REGISTRY.register()
class GDA(AdapterTrainer):
    """A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation, https://arxiv.org/abs/2402.04087

    One epoch encodes all views and computes the classifier.
    """

    NODE = "GDA"
    DEFAULTS = dict(
        VIEWS=10,  # of each training image
        ALPHA=1.0,  # weight of the discriminant, without validation images
        ALPHAS=[1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0],  # values that are tried on them
        LOGIT_SCALE=100.0,  # factor of the cosines with the text; 0: CLIP's own
        PREC="fp32",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"VIEWS": "[1, inf)", "ALPHA": "[0, inf)", "LOGIT_SCALE": "[0, inf)"}

    def make_model(self, clip, names):
        text = self.zero_shot_text(clip, names)
        scale_logits(clip, self.node.LOGIT_SCALE)
        return ClassifiedCLIP(clip, text, Discriminant(*text.shape, self.node.ALPHA))

    @torch.no_grad()
    def run_epoch(self):
        """Compute the classifier; there are no training steps."""
        tokens, labels = self.encode_views(self.node.VIEWS)
        self.model.learned.fit(self.model.to_joint(tokens), labels)
        if self.validates:
            self.search()

    @torch.no_grad()
    def search(self):
        """Keep the first alpha that is best on the validation images; return the hits of each."""
        images, zero_shot, labels = self.validation
        gain = self.model.learned.logits(images)
        logits = torch.stack([zero_shot + alpha * gain for alpha in self.node.ALPHAS])
        hits = (logits.argmax(dim=-1) == labels).sum(dim=1)
        alpha = self.node.ALPHAS[hits.argmax().item()]  # the first of equals
        self.model.learned.alpha.fill_(alpha)
        print(f"alpha {alpha:g}: {hits.max()} of {len(labels)} validation images")
        return hits
