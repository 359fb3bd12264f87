"""Linear probe (arXiv 2103.00020, section A.3): logistic regression on the frozen image features.

scikit-learn minimises the sum of the images' cross-entropies + DECAY / 2 * |weights|^2. The decay is searched for on
the validation images, unless they are the test's as on ImageNet: from 1e-6 to 1e6, then around the best in steps down
to an eighth of a decade. Images are not augmented, so one epoch is enough.
"""

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompted import Similarities
from sotglp.toolbox.trainer import CLIPTrainer


class ProbedCLIP(PromptedCLIP):
    """Image features, not normalised, and a linear layer in the place of text."""

    def encode_text(self):
        """Return None: there is no text."""

    def match(self, features, text=None):
        """Return Similarities with g (B, C, 1): no cosines, but the layer's logits over the logit scale."""
        logits = self.learned(self.clip.visual.to_joint(features[0]))
        return Similarities(logits.unsqueeze(-1) / self.logit_scale, None)


@TRAINER_REGISTRY.register()
class LinearProbe(CLIPTrainer):
    """Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020"""

    NODE = "LINEARPROBE"
    class_specific = True
    DEFAULTS = dict(
        DECAY=3.16,  # 1 / scikit-learn's C, used without validation images
        PREC="fp32",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"DECAY": "(0, inf)"}

    def make_model(self, clip, names):
        return ProbedCLIP(clip, nn.Linear(clip.embed_dim, len(names)))

    def run_epoch(self):
        """Fit the classifier."""
        train = self.encode_images(self.loader_of(self.dm.dataset.train_x))
        classifier = self.search(*train) if self.validates else fit(*train, self.node.DECAY)
        weight, bias = torch.tensor(classifier.coef_), torch.tensor(classifier.intercept_)
        if len(weight) == 1:  # for two classes scikit-learn has one row: the second against the first
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.model.learned.load_state_dict({"weight": weight, "bias": bias})

    def search(self, features, labels):
        """Return the classifier that is best on the validation images, the first of equals."""
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
    """Return the logistic regression of features (n, D) and labels (n,)."""
    from sklearn.linear_model import LogisticRegression  # here, because it takes a second

    return LogisticRegression(C=1 / decay, max_iter=1000).fit(features.cpu().numpy(), labels.cpu().numpy())
