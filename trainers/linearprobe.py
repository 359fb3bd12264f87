"""Linear probe: logistic regression on image features."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompted import Similarities
from sotglp.trainer import CLIPTrainer


class ProbedCLIP(PromptedCLIP):
    """Image features, not normalised, and a linear layer in the place of text."""

    def encode_text(self):
        """None: there is no text."""

    def match(self, features, text=None):
        """Similarities with g (B, C, 1): the layer's logits over the logit scale, which are no cosines."""
        logits = self.learned(features[0] @ self.clip.visual.proj)
        return Similarities(logits.unsqueeze(-1) / self.logit_scale, None)


@TRAINER_REGISTRY.register()
class LinearProbe(CLIPTrainer):
    """The linear probe of CLIP's paper, https://arxiv.org/abs/2103.00020 (its section A.3)

    The regularisation is searched for on the validation images, from 1e-6 to 1e6 and then eight steps a decade around
    the best; without any it is DECAY. Images are not augmented; further epochs would find the same.
    """

    NODE = "LINEARPROBE"
    class_specific = True

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.LINEARPROBE = node = CN()
        node.DECAY = 3.16  # weight of the squared weights (1 / scikit-learn's C) without validation images
        node.PREC = "fp32"  # fp32, amp or fp16

    def make_model(self, clip, names):
        return ProbedCLIP(clip, nn.Linear(clip.visual.proj.shape[1], len(names)))

    def run_epoch(self):
        train = self.encode_images(self.loader_of(self.dm.dataset.train_x))
        classifier = fit(*train, self.node.DECAY) if self.val_loader is None else self.search(*train)
        weight, bias = torch.tensor(classifier.coef_), torch.tensor(classifier.intercept_)
        if len(weight) == 1:  # of two classes scikit-learn keeps the second, against the first
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.model.learned.load_state_dict({"weight": weight, "bias": bias})

    def search(self, features, labels):
        """The classifier that is best on the validation images; of equals the one found first."""
        images, truth = (part.cpu().numpy() for part in self.encode_images(self.encoded(self.val_loader)))
        tried = {}

        def try_decay(power):
            if power not in tried:
                classifier = fit(features, labels, 10.0**power)
                tried[power] = classifier.score(images, truth), classifier
            return tried[power][0]

        best, step = max(range(-6, 7, 2), key=try_decay), 1.0
        while step >= 1 / 8:
            best, step = max((best, best - step, best + step), key=try_decay), step / 2
        print(f"decay {10.0**best:.2g}: {100 * tried[best][0]:.1f}% of the validation images")
        return tried[best][1]


def fit(features, labels, decay):
    """The logistic regression of features (n, D) and labels (n,)."""
    return LogisticRegression(C=1 / decay, max_iter=1000).fit(features.cpu().numpy(), labels.cpu().numpy())
