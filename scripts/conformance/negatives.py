"""NegLabel: a score that needs no trainer."""

import torch

from scripts.conformance.published import Published
from sotglp.negatives import choose_negatives, neg_label, shuffled


class NegLabel(Published):
    """Its file holds text features of classes and of candidate words, and image features."""

    ways = ()
    inputs = ("meta", "text_features", "negative/", "image_features")

    def compute(self, **settings):
        theirs = self.file.settings
        words = {name: torch.from_numpy(self.file[f"negative/{name}s"]) for name in ("noun", "adjective")}
        classes, tau = torch.from_numpy(self.file["text_features"]), theirs["t"] / theirs["logit_scale"]
        values = {}
        for place in {name.partition("/")[0] for name in self.file.arrays if name.startswith("selected")}:
            quantile, share = theirs["pencentile"], theirs["neg_topk"]
            if place != "selected":
                quantile, share = (float(part[1:]) for part in place.split("_")[1:])
            for name, features in words.items():
                values[f"{place}/{name}_indices"] = choose_negatives(features, classes, quantile, share)
        negatives = [features[values[f"selected/{name}_indices"]] for name, features in words.items()]
        values["selected/features"] = negatives = torch.cat(negatives)
        for kind in ("id", "ood"):
            images, n_groups = torch.from_numpy(self.file[f"image_features_{kind}"]), theirs["ngroup"]
            cosines = images @ classes.T, images @ negatives.T
            values |= {
                **{f"sim/{kind}_positive": cosines[0] / tau, f"sim/{kind}_negative": cosines[1] / tau},
                f"permutation/{kind}": shuffled(len(negatives) // n_groups * n_groups, 0),
                f"score/{kind}": -neg_label(*cosines, n_groups, tau),
                f"score_unpermuted/{kind}": -neg_label(*cosines, n_groups, tau, seed=None),
                f"score_one_group_branch/{kind}": -neg_label(*cosines, 1, tau),
                f"score_ungrouped_softmax/{kind}": -neg_label(*cosines, None, tau),
            }
        return values
