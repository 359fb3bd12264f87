"""SOT-GLP: Local-Global Prompt Learning via Sparse Optimal Transport (arXiv 2603.08347).

Letters, here and in every module: B images, P patches of an image, C classes, G global prompts, N local prompts of a
class, T context tokens, K patches of a support, W width of the image tower, D joint dimension of CLIP;
g global similarity, s local similarity, l local logit, eps entropic regularisation.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sotglp.matching import on_support, similarities, sparse_support
from sotglp.prompts import Prompts, context_from_text, orthogonal_contexts, xavier_contexts
from sotglp.transport import transport_plan

LOCAL_INITS = {"xavier": xavier_contexts, "orthogonal": orthogonal_contexts}


class Match(NamedTuple):
    """What a batch of images has in common with the prompts, before CLIP's logit scale."""

    g: torch.Tensor  # (B, C, G) cosines of the image and the global prompts
    s: torch.Tensor  # (B, P, C, N) cosines of the patches and the local prompts
    support: torch.Tensor  # (B, C, K) patches kept for each class
    plan: torch.Tensor  # (B, C, K, N) share of each kept patch that each local prompt takes
    l: torch.Tensor  # (B, C) local logits  # noqa: E741 (the paper's letter)


class SOTGLP(nn.Module):
    """Global prompts on the image, local prompts on its patches, matched by sparse optimal transport.

    names: the C class names. n_global, n_local: G and N. context: the words that each context starts from, and whose
    number is T. topk: K. eps: the transport's regularisation. projection: whether the patches pass a learned W x W
    matrix M, at first the identity. local_init: ``"xavier"`` or ``"orthogonal"``.
    ``clip`` is frozen; what is learned is ``learned``.
    """

    def __init__(
        self,
        clip,
        names,
        n_global=3,
        n_local=4,
        context="A photo of a",
        topk=10,
        eps=0.1,
        projection=True,
        local_init="xavier",
    ):
        super().__init__()
        if local_init not in LOCAL_INITS:
            raise ValueError(f"local prompts start {' or '.join(LOCAL_INITS)}, not {local_init!r}")
        if n_global < 1 or n_local < 1:
            raise ValueError(f"at least 1 global and 1 local prompt are needed, not {n_global} and {n_local}")
        # These refuse an impossible K or eps now, not after the first images.
        sparse_support(torch.zeros(1, len(clip.visual.positional_embedding) - 1, 1, 1), topk)
        transport_plan(torch.zeros(1, 1), eps)
        words = context_from_text(clip, context)
        width = clip.visual.proj.shape[0]
        self.clip = clip.requires_grad_(False)
        self.learned = nn.ModuleDict(
            {
                "global_prompts": Prompts(clip, names, words.expand(n_global, -1, -1)),
                "local_prompts": Prompts(clip, names, LOCAL_INITS[local_init](len(names), n_local, *words.shape)),
            }
        )
        if projection:
            self.learned["projection"] = nn.Linear(width, width, bias=False)
            nn.init.eye_(self.learned["projection"].weight)
        self.topk, self.eps = topk, eps

    def forward(self, images, text=None):
        """images (B, 3, S, S) -> Match. ``text`` spares encoding the prompts again while they stand still."""
        t_global, t_local = text or self.encode_text()  # (C, G, D), (C, N, D)
        image, patches = self.encode_image(images)  # (B, D), (B, P, D)
        g = similarities(image, t_global)
        s = similarities(patches, t_local)
        support = sparse_support(s.detach(), self.topk)
        kept = on_support(s, support)  # (B, C, K, N)
        plan = transport_plan(kept, self.eps)
        # The plan's mass is 1; the authors divide by N once more, which their tables rest on.
        l = (plan * kept).sum(dim=(-2, -1)) / kept.shape[-1]  # noqa: E741
        return Match(g, s, support, plan, l)

    def encode_text(self):
        """Normalised features of the global (C, G, D) and the local (C, N, D) prompts."""
        return self.learned["global_prompts"](self.clip), self.learned["local_prompts"](self.clip)

    def encode_image(self, images):
        """Normalised features of the images (B, D) and of their patches (B, P, D)."""
        with torch.no_grad():
            image, patches = self.clip.visual(images)
        to_joint = self.clip.visual.proj  # (W, D)
        if "projection" in self.learned:
            # tokens M^T proj: the two matrices first, since there are more tokens than rows of M.
            patches = patches @ (self.learned["projection"].weight.T @ to_joint)
        else:
            patches = patches @ to_joint
        return F.normalize(image @ to_joint, dim=-1), F.normalize(patches, dim=-1)

    @property
    def logit_scale(self):
        return self.clip.logit_scale.exp()
