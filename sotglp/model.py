"""SOT-GLP: Local-Global Prompt Learning via Sparse Optimal Transport (arXiv 2603.08347).

Letters, here and in every module: B images, P patches of an image, C classes, G global prompts, N local prompts of a
class, T context tokens, K patches of a support, W width of the image tower, D joint dimension of CLIP;
g global similarity, s local similarity, l local logit, eps entropic regularisation.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from sotglp.clip import STREAMS
from sotglp.matching import mean_similarities, on_support, own_support, similarities, sparse_support
from sotglp.prompted import PromptedCLIP, identity_projection
from sotglp.prompts import Prompts, context_from_text, orthogonal_contexts, xavier_contexts
from sotglp.transport import transport_plan, unbalanced_plan, uniform_plan

LOCAL_INITS = {"xavier": xavier_contexts, "orthogonal": orthogonal_contexts}
SUPPORTS = "shared", "own"
PLANS = {"balanced": transport_plan, "unbalanced": unbalanced_plan, "mean": uniform_plan}


class Match(NamedTuple):
    """What a batch of images has in common with the prompts, before CLIP's logit scale.

    A branch that is left out (G = 0 or N = 0) has None.
    """

    g: torch.Tensor  # (B, C, G) cosines of the image and the global prompts
    s: torch.Tensor  # (B, P, C) cosines of the patches and the local prompts, averaged over those of a class
    support: torch.Tensor  # (B, C, K) patches kept for each class
    plan: torch.Tensor  # (B, C, K, N) share of each kept patch that each local prompt takes
    l: torch.Tensor  # (B, C) local logits  # noqa: E741 (the paper's letter)


class SOTGLP(PromptedCLIP):
    """Global prompts on the image, local prompts on its patches, matched by sparse optimal transport.

    names: the C class names. n_global, n_local: G and N. context: the words that each context starts from, and whose
    number is T. topk: K, or 0 for all P patches. eps: the transport's regularisation. projection: whether the patches
    pass a learned W x W matrix M, at first the identity. local_init: ``"xavier"`` or ``"orthogonal"``.

    What the method is not, to see what its parts do: n_global or n_local 0 leaves a branch out; local is the stream of
    patch tokens; support ``"own"`` lets each prompt choose its K patches; plan is ``"unbalanced"``, or ``"mean"`` for
    no transport.
    ``clip`` is frozen; what is learned is ``learned``. Raises ValueError for an impossible setting.
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
        local="vv",
        support="shared",
        plan="balanced",
    ):
        chosen = {local_init: LOCAL_INITS, local: STREAMS, support: SUPPORTS, plan: PLANS}
        for value, allowed in chosen.items():
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        if min(n_global, n_local) < 0 or n_global + n_local == 0:
            raise ValueError(f"at least 1 global or local prompt is needed, not {n_global} and {n_local}")
        n_patches = clip.visual.n_patches
        # These refuse an impossible K or eps now, not after the first images.
        sparse_support(torch.zeros(1, n_patches, 1), topk or n_patches)
        transport_plan(torch.zeros(1, 1), eps)
        words = context_from_text(clip, context)
        learned = nn.ModuleDict()
        if n_global:
            learned["global_prompts"] = Prompts(clip, names, words.expand(n_global, -1, -1))
        if n_local:
            contexts = LOCAL_INITS[local_init](len(names), n_local, *words.shape)
            learned["local_prompts"] = Prompts(clip, names, contexts)
        if n_local and projection:
            learned["projection"] = identity_projection(clip)
        super().__init__(clip, learned, local if n_local else None)
        self.topk, self.support, self.plan = topk or n_patches, support, partial(PLANS[plan], eps=eps)

    def match(self, features, text):
        """The method: class tokens (B, W) and patch tokens (B, P, W), text features of both branches -> Match."""
        t_global, t_local = text  # (C, G, D), (C, N, D)
        class_token, tokens = features
        g = s = support = plan = l = None  # noqa: E741
        if t_global is not None:
            g = similarities(self.to_joint(class_token), t_global)
        if t_local is not None:
            patches = self.to_joint(tokens, self.projection)
            s = mean_similarities(patches.detach(), t_local.detach())
            shared = self.support == "shared"
            support = sparse_support(s, self.topk) if shared else own_support(patches, t_local, self.topk)
            kept = on_support(patches, t_local, support)  # s of the support, (B, C, K, N)
            plan = self.plan(kept)
            # The plan's mass is 1; the authors divide by N once more, which their tables rest on.
            l = (plan * kept).sum(dim=(-2, -1)) / kept.shape[-1]  # noqa: E741
        return Match(g, s, support, plan, l)

    @property
    def projection(self):
        """The learned matrix on patch tokens, or None."""
        return self.learned["projection"] if "projection" in self.learned else None

    def encode_text(self):
        """Normalised features of the global (C, G, D) and the local (C, N, D) prompts; None for those left out."""
        prompts = (self.learned[name] if name in self.learned else None for name in ("global_prompts", "local_prompts"))
        return tuple(None if branch is None else branch(self.clip) for branch in prompts)
