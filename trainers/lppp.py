"""LP++ (CVPR 2024, arXiv 2404.02285): a linear probe on image features, blended with the text class by class.

logits of a normalised image feature x = x . w_k + b_k + alpha_k x . t_k. All of them start from the N training images,
and so do the step sizes: no learning rate is searched for.

- w_k starts from the features of its class, alpha_k from the mean cosine of images and own text, times 250.
- w and b take steps of 4 N / (largest eigenvalue of F^T F), with momentum, on all images at once.
- alpha takes a plain step of N / (4 max_k sum_n (x_n . t_k)^2) at each tenth epoch.

As in the authors' code, w_k starts as a sum (WEIGHTS mean: the mean), the cosines with the text carry no logit scale,
and alpha's step goes down the sum of all gradients since the start (ALL_GRADIENTS False: that of the epoch alone). The
last of the epochs that are best on the validation images counts; without any, the last.
"""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dassl.engine import TRAINER_REGISTRY
from sotglp.matching import similarities
from sotglp.prompted import ClassifiedCLIP, Similarities
from sotglp.toolbox.adapter import AdapterTrainer, TokenBatches, class_means
from sotglp.toolbox.trainer import total

ALPHA_SCALE = 250  # of the cosines, where alpha starts
ALPHA_EVERY = 10  # epochs between two steps of alpha


class BlendedClassifier(nn.Linear):
    """Weights (C, D), biases (C,) and the text's weight in each class.

    Attributes:
        alpha: (C,) the text's weight. The optimizer leaves it alone.
        slope: (C,) sum of alpha's gradients.
        step_size, alpha_step_size: () of the weights and of alpha.
        best_weight, best_bias, best_alpha: of the last best epoch on the validation images.
        best_hits: () how many of them it classifies right.
    """

    def __init__(self, n_classes, width):
        super().__init__(width, n_classes)
        for name in ("alpha", "slope"):
            self.register_buffer(name, torch.zeros(n_classes))
        for name in ("step_size", "alpha_step_size"):
            self.register_buffer(name, torch.tensor(1.0))
        for name in ("weight", "bias", "alpha"):
            self.register_buffer(f"best_{name}", torch.zeros_like(getattr(self, name)))
        self.register_buffer("best_hits", torch.tensor(-1))

    def blend(self, images, cosines):
        """Return logits (B, C) of normalised image features (B, D) and their cosines with the text (B, C)."""
        return self(images) + self.alpha * cosines

    def start_from(self, images, cosines, labels, weights):
        """Set all but the bias, which is random.

        Args:
            images: normalised features (n, D).
            cosines: (n, C) with the text.
            labels: (n,).
            weights: "sum" or "mean" of a class's features.
        """
        n_classes = len(self.alpha)
        means, counts = class_means(images, labels, n_classes), labels.bincount(minlength=n_classes)
        self.weight.copy_(means * counts[:, None] if weights == "sum" else means)
        self.alpha.fill_(ALPHA_SCALE * class_means(cosines, labels, n_classes).diagonal().mean())
        self.step_size.copy_(4 * len(images) / torch.linalg.eigvalsh(images.T @ images)[-1])
        self.alpha_step_size.copy_(len(images) / (4 * cosines.square().sum(dim=0).max()))

    def keep_best(self, hits):
        """Keep the epoch's values if it classifies as many validation images right as those before."""
        if hits >= self.best_hits:
            self.best_hits.copy_(hits)
            for name in ("weight", "bias", "alpha"):
                getattr(self, f"best_{name}").copy_(getattr(self, name))

    def take_best(self):
        """Take the values of the last best epoch."""
        for name in ("weight", "bias", "alpha"):
            getattr(self, name).copy_(getattr(self, f"best_{name}"))


class BlendedCLIP(ClassifiedCLIP):
    """A classifier in which the text has weights of its own."""

    def match(self, features, text):
        """Return Similarities with g (B, C, 1): no cosines, but the logits over the logit scale."""
        image = self.to_joint(features[0])
        logits = self.learned.blend(image, similarities(image, text)[..., 0])
        return Similarities(logits.unsqueeze(-1) / self.logit_scale, None)


@TRAINER_REGISTRY.register()
class LPPP(AdapterTrainer):
    """LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP, https://arxiv.org/abs/2404.02285

    An epoch is one step on all images. OPTIM.LR multiplies the step sizes of weights and biases.
    """

    NODE = "LPPP"
    DEFAULTS = dict(
        VIEWS=1,  # of each training image
        WEIGHTS="sum",  # where a class's weights start: sum or mean of its features
        ALL_GRADIENTS=True,  # alpha's step takes the sum of all gradients, otherwise its epoch's
        PREC="fp32",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"VIEWS": "[1, inf)"}

    def check_cfg(self, cfg):
        if cfg.TRAINER.LPPP.WEIGHTS not in ("sum", "mean"):
            raise ValueError(f"TRAINER.LPPP.WEIGHTS must be sum or mean, not {cfg.TRAINER.LPPP.WEIGHTS!r}")

    def make_model(self, clip, names):
        text = self.zero_shot_text(clip, names)
        return BlendedCLIP(clip, text, BlendedClassifier(*text.shape))

    def learned_parameters(self):
        return super().learned_parameters() + self.num_classes  # alpha, a buffer

    def build_schedule(self):
        """Return the constant step size, which is known when the images are encoded."""
        return LambdaLR(self.optim, lambda epoch: self.model.learned.step_size.item())

    @torch.no_grad()
    def before_train(self):
        """Also encode the images, and start from them unless the run is continued."""
        super().before_train()
        tokens, labels = self.encode_views(self.node.VIEWS)
        self.train_loader_x = TokenBatches(tokens, labels, len(labels))
        if self.start_epoch == self.start_batch == 0:
            images, text = self.model.to_joint(tokens), self.model.encode_text()
            self.model.learned.start_from(images, similarities(images, text)[..., 0], labels, self.node.WEIGHTS)
            for group in self.optim.param_groups:
                group["lr"] = self.cfg.OPTIM.LR * self.model.learned.step_size.item()

    def forward_backward(self, batch):
        learned = self.model.learned
        learned.alpha.requires_grad_()
        summary = super().forward_backward(batch)
        learned.alpha.requires_grad_(False)
        return summary

    def step(self, losses):
        """Take a step of weights and biases, and at each tenth epoch one of alpha."""
        learned = self.model.learned
        (gradient,) = torch.autograd.grad(total(losses), learned.alpha, retain_graph=True)
        learned.slope.mul_(self.node.ALL_GRADIENTS).add_(gradient)
        super().step(losses)
        if (self.epoch + 1) % ALPHA_EVERY == 0:
            learned.alpha.data -= learned.alpha_step_size * learned.slope

    @torch.no_grad()
    def after_epoch(self):
        """Also keep the last best epoch on the validation images, and take it after the last."""
        if self.validates:
            images, zero_shot, labels = self.validation
            logits = self.model.learned.blend(images, zero_shot / self.model.logit_scale)
            self.model.learned.keep_best((logits.argmax(dim=1) == labels).sum())
            if self.epoch + 1 == self.max_epoch:
                self.model.learned.take_best()
        super().after_epoch()
