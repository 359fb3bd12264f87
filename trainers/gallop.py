"""GalLoP: global prompts on the image, local prompts on their best patches at several scales."""

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP, Prompts, context_from_text, draw_prompts, kept_prompts
from sotglp.matching import similarities
from sotglp.prompted import identity_projection
from sotglp.trainer import CLIPTrainer


class GlobalLocalCLIP(PromptedCLIP):
    """G global and N local prompts, all shared by the classes; local prompt n looks at its n * step best patches.

    The patches pass a learned W x W matrix, at first the identity.
    Raises ValueError if the largest scale has more patches than an image.
    """

    def __init__(self, clip, names, n_global, n_local, context, step):
        if not 1 <= step * n_local <= clip.visual.n_patches:
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
        return self.learned["global_prompts"](self.clip), self.learned["local_prompts"](self.clip)

    def match(self, features, text):
        """Match with l (B, C, N): the mean similarity of each local prompt's best patches."""
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

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.GALLOP = node = CN()
        node.N_GLOBAL = 4  # global prompts
        node.N_LOCAL = 4  # local prompts, each with a scale
        node.TOPK = 10  # patches of the first scale, and what each further scale adds
        node.CTX_INIT = "A photo of a"  # words that a context starts from
        node.PROMPT_DROPOUT = 0.75  # share of the global prompts left out for each training image
        node.PREC = "amp"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        node = cfg.TRAINER.GALLOP
        kept_prompts(node.N_GLOBAL, node.PROMPT_DROPOUT)
        if min(node.N_GLOBAL, node.N_LOCAL) < 1:
            raise ValueError(f"at least 1 global and 1 local prompt are needed, not {node.N_GLOBAL} and {node.N_LOCAL}")

    def make_model(self, clip, names):
        node = self.node
        return GlobalLocalCLIP(clip, names, node.N_GLOBAL, node.N_LOCAL, node.CTX_INIT, node.TOPK)

    def losses(self, match, targets, text):
        """Mean cross-entropy of the global prompts drawn for each image, and of the local prompts."""
        drawn = draw_prompts(len(targets), self.node.N_GLOBAL, self.node.PROMPT_DROPOUT, self.device)
        g = match.g.take_along_dim(drawn[:, None], dim=-1)  # (B, C, kept)
        terms = {"global": g, "local": match.l}
        return {name: self.mean_cross_entropy(cosines, targets) for name, cosines in terms.items()}

    def mean_cross_entropy(self, cosines, targets):
        """Cosines (B, C, M) of M prompts, each of which is to tell the class on its own."""
        logits = self.model.logit_scale * cosines.float()
        return F.cross_entropy(logits, targets[:, None].expand(-1, logits.shape[-1]))

    def scores(self, match):
        return sum(self.branches(match).values()) / 2

    def branches(self, match):
        cosines = {"global": match.g, "local": match.l}
        return {name: self.model.logit_scale * value.float().mean(dim=-1) for name, value in cosines.items()}
