"""GalLoP (arXiv 2407.01400): global prompts on the image, local prompts on their best patches at several scales.

Local prompt n = 1..N averages its cosines with the n * TOPK patches most similar to it. Before that, the patches pass a
learned matrix. Every prompt has its own cross-entropy; each image draws its global prompts (prompt dropout). The
prediction is the mean of the global and the local logits.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP, Prompts, context_from_text, draw_prompts
from sotglp.matching import similarities
from sotglp.prompted import identity_projection
from sotglp.toolbox.trainer import CLIPTrainer


class GlobalLocalCLIP(PromptedCLIP):
    """G global and N local prompts, all shared by the classes. Local prompt n looks at its n * step best patches.

    The patches pass a learned W x W matrix, the identity at first.

    Args:
        clip: frozen here.
        names: of the classes.
        n_global, n_local: G and N.
        context: words that each context starts from.
        step: patches of the first scale.

    Raises:
        ValueError: the largest scale has more patches than an image.
    """

    def __init__(self, clip, names, n_global, n_local, context, step):
        if step * n_local > clip.visual.n_patches:
            patches = f"the {clip.visual.n_patches} of an image"
            raise ValueError(f"{n_local} scales of {step} patches each are not within {patches}")
        words = context_from_text(clip, context)
        learned = {
            "global_prompts": Prompts(clip, names, words.expand(n_global, -1, -1)),
            "local_prompts": Prompts(clip, names, words.expand(n_local, -1, -1)),
            "projection": identity_projection(clip),
        }
        super().__init__(clip, nn.ModuleDict(learned), local="value")
        self.scales = [step * (n + 1) for n in range(n_local)]

    def encode_text(self):
        """Return normalised text features of the global (C, G, D) and the local prompts (C, N, D)."""
        return self.learned["global_prompts"](self.clip), self.learned["local_prompts"](self.clip)

    def match(self, features, text):
        """Return a Match with l (B, C, N): the mean cosine of each local prompt with its best patches."""
        (class_token, tokens), (t_global, t_local) = features, text
        g = similarities(self.to_joint(class_token), t_global)
        s = similarities(self.to_joint(tokens, self.learned["projection"]), t_local)
        best = s.topk(self.scales[-1], dim=1).values  # (B, K, C, N), sorted
        l = torch.stack([best[:, :k, :, n].mean(dim=1) for n, k in enumerate(self.scales)], dim=-1)  # noqa: E741
        return Match(g, s.mean(dim=-1), None, None, l)


@TRAINER_REGISTRY.register()
class GalLoP(CLIPTrainer):
    """GalLoP: Learning Global and Local Prompts for Vision-Language Models, https://arxiv.org/abs/2407.01400"""

    NODE = "GALLOP"
    DEFAULTS = dict(
        N_GLOBAL=4,  # global prompts
        N_LOCAL=4,  # local prompts, each with a scale
        TOPK=10,  # patches of the first scale; each further scale adds as many
        CTX_INIT="A photo of a",  # words that a context starts from
        PROMPT_DROPOUT=0.75,  # share of the global prompts left out for each training image
        PREC="amp",  # fp32, amp or fp16
    )
    RANGES = {"N_GLOBAL": "[1, inf)", "N_LOCAL": "[1, inf)", "TOPK": "[1, inf)", "PROMPT_DROPOUT": "[0, 1]"}

    def make_model(self, clip, names):
        node = self.node
        return GlobalLocalCLIP(clip, names, node.N_GLOBAL, node.N_LOCAL, node.CTX_INIT, node.TOPK)

    def losses(self, match, targets, text):
        """Return the mean cross-entropies of the global prompts drawn for each image, and of the local prompts."""
        drawn = draw_prompts(len(targets), self.node.N_GLOBAL, self.node.PROMPT_DROPOUT, self.device)
        g = match.g.take_along_dim(drawn[:, None], dim=-1)  # (B, C, kept)
        terms = {"global": g, "local": match.l}
        return {name: self.mean_cross_entropy(cosines, targets) for name, cosines in terms.items()}

    def mean_cross_entropy(self, cosines, targets):
        """Return the cross-entropy of cosines (B, C, M) with one prompt alone, averaged over the M prompts."""
        logits = self.model.logit_scale * cosines.float()
        return F.cross_entropy(logits, targets[:, None].expand(-1, logits.shape[-1]))

    def scores(self, match):
        return sum(self.branches(match).values()) / 2

    def branches(self, match):
        cosines = {"global": match.g, "local": match.l}
        return {name: self.model.logit_scale * value.float().mean(dim=-1) for name, value in cosines.items()}
