"""Out-of-distribution scores of the trainers on a frozen CLIP.

Letters: B images, H groups of m negatives, D joint dimension.
"""

from functools import cache
from typing import Any

import torch

from sotglp.interface import ImageFeatures
from sotglp.matching import Matched
from sotglp.negatives import Negatives, negatives_of
from sotglp.prompted import PromptedCLIP
from sotglp.scores import Scores, ood_scores

WORDS_AT_A_TIME = 1024  # that are read in the learned prompts; bounds the memory


class ScoredImages:
    """OOD scores of a trainer's matches.

    Attributes:
        text: what images are matched with.
    """

    cfg: Any
    dm: Any
    device: Any
    model: PromptedCLIP
    text: Any
    _prompted: Any = object(), None  # the text that prompted negatives belong to, and these

    def ood_scores(self, match: Matched, tau: float = 1.0, features: ImageFeatures | None = None) -> Scores:
        """Return the out-of-distribution scores (B,) of a match by name, each computed when it is read.

        Args:
            match: of a batch of images.
            tau: softmax temperature of the cosines in MCM, L-MCM and GL-MCM.
            features: of the images, for NegLabel.
        """
        if features is None:
            return ood_scores(match, self.model.logit_scale, tau)
        class_token, tokens = features

        @cache  # several scores read it
        def joint() -> ImageFeatures:
            return self.model.joint((class_token.float(), None if tokens is None else tokens.float()))

        negatives = {"NegLabel": lambda: self.negatives.text}
        if self.model.shared_prompts is not None:
            negatives["P-NegLabel"] = lambda: self.prompted_negatives
        return ood_scores(match, self.model.logit_scale, tau, joint, negatives)

    @property
    def negatives(self) -> Negatives:
        """Words that name none of the classes, with their text features of the frozen text tower."""
        names = tuple(name.replace("_", " ") for name in self.dm.dataset.classnames)
        folder = self.cfg.INPUT.get("FEATURE_CACHE", "")  # other toolboxes have no such key
        return negatives_of(self.cfg.MODEL.BACKBONE.NAME, names, self.device, folder)

    @property
    @torch.no_grad()
    def prompted_negatives(self) -> torch.Tensor:
        """Text features (H, m, D) of the same words in the learned prompts, which classes share."""
        if self._prompted[0] is not self.text:
            (words, frozen), prompts, clip = self.negatives, self.model.shared_prompts, self.model.clip
            assert prompts is not None  # without them the score is not offered
            parts = [words[i : i + WORDS_AT_A_TIME] for i in range(0, len(words), WORDS_AT_A_TIME)]
            features = torch.cat([prompts.for_names(clip, part)(clip).mean(dim=1) for part in parts])
            self._prompted = self.text, features.view(frozen.shape)
        return self._prompted[1]
