"""GalLoP (arXiv 2407.01400): global prompts on the image, local prompts on their best patches at several scales.

Local prompt n = 1..N averages its cosines with the TOPK[n] patches most similar to it. Before that, the patches pass a
learned matrix. loss = CE of the mean logit of the global prompts that an image draws (prompt dropout) + the mean over
the local prompts of their own CE. The prediction is softmax of the mean of the global and the local logits.

As in the authors' code, global prompts are drawn with replacement, all prompts start from the same words, a scale takes
at most the image's P patches, and data sets have no templates of their own.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP, Prompts, context_from_text
from sotglp.matching import similarities
from sotglp.prompted import identity_projection
from sotglp.toolbox.trainer import CLIPTrainer


class GlobalLocalCLIP(PromptedCLIP):
    """G global and N local prompts, all shared by the classes. Each local prompt looks at its best patches.

    The patches pass a learned W x W matrix, the identity at first.

    Args:
        clip: frozen here.
        names: of the classes.
        n_global: G.
        scales: number of patches of each of the N local prompts; more than P stands for P.
        context: words that each context starts from.
    """

    def __init__(self, clip, names, n_global, scales, context):
        words = context_from_text(clip, context)
        learned = {
            "global_prompts": Prompts(clip, names, words.expand(n_global, -1, -1)),
            "local_prompts": Prompts(clip, names, words.expand(len(scales), -1, -1)),
            "projection": identity_projection(clip),
        }
        super().__init__(clip, nn.ModuleDict(learned), local="value")
        self.scales = [min(k, clip.visual.n_patches) for k in scales]

    def encode_text(self):
        """Return normalised text features of the global (C, G, D) and the local prompts (C, N, D)."""
        return self.learned["global_prompts"](self.clip), self.learned["local_prompts"](self.clip)

    def match(self, features, text):
        """Return a Match with l (B, C, N): the mean cosine of each local prompt with its best patches."""
        (class_token, tokens), (t_global, t_local) = features, text
        g = similarities(self.to_joint(class_token), t_global)
        s = similarities(self.to_joint(tokens, self.projection), t_local)
        best = s.topk(max(self.scales), dim=1).values  # (B, K, C, N), sorted
        l = torch.stack([best[:, :k, :, n].mean(dim=1) for n, k in enumerate(self.scales)], dim=-1)  # noqa: E741
        return Match(g, s.mean(dim=-1), None, None, l)

    @property
    def projection(self):
        return self.learned["projection"]


@TRAINER_REGISTRY.register()
class GalLoP(CLIPTrainer):
    """GalLoP: Learning Global and Local Prompts for Vision-Language Models, https://arxiv.org/abs/2407.01400"""

    NODE = "GALLOP"
    DEFAULTS = dict(
        N_GLOBAL=4,  # global prompts
        TOPK=[5, 10, 15, 20],  # patches of each local prompt
        CTX_INIT="A photo of a",  # words that a context starts from
        PROMPT_DROPOUT=0.75,  # share of the global prompts left out for each training image
        PREC="amp",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N_GLOBAL": "[1, inf)", "PROMPT_DROPOUT": "[0, 1]"}

    def check_cfg(self, cfg):
        scales = cfg.TRAINER.GALLOP.TOPK
        if not scales or not all(isinstance(k, int) and k > 0 for k in scales):
            raise ValueError(f"TRAINER.GALLOP.TOPK needs a number of patches from 1 for each local prompt: {scales}")

    def make_model(self, clip, names):
        node = self.node
        return GlobalLocalCLIP(clip, names, node.N_GLOBAL, node.TOPK, node.CTX_INIT)

    def losses(self, match, targets, text):
        g = match.g.take_along_dim(self.draw(len(targets))[:, None], dim=-1).float().mean(dim=-1)  # (B, C)
        scale, per_prompt = self.model.logit_scale, targets[:, None].expand(-1, match.l.shape[-1])
        return {
            "global": F.cross_entropy(scale * g, targets),
            "local": F.cross_entropy(scale * match.l.float(), per_prompt),
        }

    def scores(self, match):
        return sum(self.branches(match).values()) / 2

    def branches(self, match):
        cosines = {"global": match.g, "local": match.l}
        return {name: self.model.logit_scale * value.float().mean(dim=-1) for name, value in cosines.items()}
