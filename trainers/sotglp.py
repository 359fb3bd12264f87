r"""SOT-GLP: Local-Global Prompt Learning via Sparse Optimal Transport (https://arxiv.org/abs/2603.08347).

CLIP is frozen. G global prompts, shared by all classes, look at the image; N local prompts of each class look at its
patches. ``SparseTransportCLIP.match`` compares them in four steps:

1. Patch tokens come from value-value attention, softmax(v v^T / sqrt(d)) v, in a stream beside CLIP's own
   (CLIP-Surgery, arXiv 2304.05653). The learned matrix M, applied to them, raises accuracy; without it
   (projection-free) the method detects out-of-distribution images better.
2. One sparse support for each image and class: the K patches most similar to the mean of the class's N prompts.
3. Balanced entropic optimal transport shares out the support among the N prompts: the plan T minimises
   <T, 1 - s> - eps H(T) with row sums 1/K and column sums 1/N. Sinkhorn solves it; no gradient passes T.
4. The local logit is the transported similarity, l = 1/N sum_kn T_kn s_kn.

Training minimises CE(scale * mean of g) + CE(scale * l); by prompt dropout each image draws the global prompts that its
mean is over. The prediction is softmax(scale * (mean of g + l) / 2), with scale = exp(CLIP's logit scale).

Letters: B images, P patches of an image, C classes, G global prompts, N local prompts of a class, T context tokens,
K patches of a support, W width of the image tower, D joint dimension; g global similarity, s local similarity, l local
logit, eps entropic regularisation.
"""

from functools import partial

import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp.interface import STREAMS
from sotglp.matching import Match, mean_similarities, on_support, own_support, similarities, sparse_support
from sotglp.prompted import PromptedCLIP, identity_projection
from sotglp.prompts import Prompts, context_from_text, orthogonal_contexts, xavier_contexts
from sotglp.toolbox.trainer import CLIPTrainer
from sotglp.transport import transport_plan, unbalanced_plan, uniform_plan

LOCAL_INITS = {"xavier": xavier_contexts, "orthogonal": orthogonal_contexts}
# The first of each is the method's, the others are for ablations.
SUPPORTS = {
    "shared": lambda s, patches, text, k: sparse_support(s, k),
    "own": lambda s, patches, text, k: own_support(patches, text, k),
}
PLANS = {"balanced": transport_plan, "unbalanced": unbalanced_plan, "mean": uniform_plan}


class SparseTransportCLIP(PromptedCLIP):
    """Global prompts on the image, local prompts on its patches, matched by sparse optimal transport.

    Args:
        clip: frozen here.
        names: of the C classes.
        n_global, n_local: G and N, from 1; ``build`` takes 0, too.
        context: words that each context starts from; their number is T.
        topk: K, or 0 for all P patches.
        eps: entropic regularisation.
        projection: whether the patch tokens pass the learned W x W matrix M, at first the identity.
        local_init: start of the local contexts, one of LOCAL_INITS.
        local: stream of the patch tokens, one of ``sotglp.interface.STREAMS``.
        support, plan: keys of SUPPORTS and PLANS.

    Raises:
        ValueError: an impossible setting.
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
        for value, allowed in {local_init: LOCAL_INITS, local: STREAMS, support: SUPPORTS, plan: PLANS}.items():
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        if min(n_global, n_local) < 0 or n_global + n_local == 0:
            raise ValueError(f"at least 1 global or local prompt is needed, not {n_global} and {n_local}")
        clip.visual.check_stream(local if n_local else None)
        n_patches = clip.visual.n_patches
        if n_local and not 0 <= topk <= n_patches:
            raise ValueError(f"the support holds 1 to P = {n_patches} patches of an image, or all (0), not {topk}")
        if not eps > 0:
            raise ValueError(f"the entropic regularisation eps must be positive, not {eps}")
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
        self.topk = topk or n_patches
        self.sparse_support = partial(SUPPORTS[support], k=self.topk)
        self.transport_plan = partial(PLANS[plan], eps=eps)

    def match(self, features, text):
        """Compare images with the prompts, in the four steps of this file's first lines.

        Args:
            features: what the frozen image tower makes of images (``self.features(images)``): CLIP's class tokens
                (B, W) and, of step 1, V-V patch tokens (B, P, W).
            text: what ``encode_text`` returns.
        """
        (class_token, tokens), (t_global, t_local) = features, text
        g = similarities(self.to_joint(class_token), t_global)  # (B, C, G)
        patches = self.to_joint(tokens, self.projection)  # 1. (B, P, D), normalised
        s = mean_similarities(patches.detach(), t_local.detach())  # (B, P, C), averaged over the N prompts
        support = self.sparse_support(s, patches, t_local)  # 2. (B, C, K), one for all N prompts
        kept = on_support(patches, t_local, support)  # (B, C, K, N), s of the kept patches with each prompt
        plan = self.transport_plan(kept)  # 3. (B, C, K, N)
        # 4. The plan's mass is 1. The authors divide by N once more, and their tables rest on it.
        l = (plan * kept).sum(dim=(-2, -1)) / kept.shape[-1]  # noqa: E741 (the paper's letter), (B, C)
        return Match(g, s, support, plan, l)

    def encode_text(self):
        """Return normalised text features of the global (C, G, D) and the local (C, N, D) prompts."""
        return self.learned["global_prompts"](self.clip), self.learned["local_prompts"](self.clip)

    @property
    def projection(self):
        """The learned layer M on patch tokens, or None."""
        return self.learned["projection"] if "projection" in self.learned else None


def branches(match, drawn=None):
    """Return {"global": mean of g, "local": l}, cosines (B, C), of the branches that a match has.

    Args:
        drawn: indices (B, kept) of the global prompts that count for each image; all if None.
    """
    cosines = {}
    if match.g is not None:
        g = match.g if drawn is None else match.g.take_along_dim(drawn[:, None], dim=-1)
        cosines["global"] = g.float().mean(dim=-1)
    if match.l is not None:
        cosines["local"] = match.l.float()
    return cosines


def sotglp_loss(match, targets, logit_scale, drawn):
    """Return the loss's terms, CE(scale * mean of the drawn g) and CE(scale * l), by the name of the branch.

    Args:
        targets: (B,) labels.
        drawn: (B, kept) of ``draw_prompts``.
    """
    return {name: F.cross_entropy(logit_scale * cosine, targets) for name, cosine in branches(match, drawn).items()}


def predict(match, logit_scale):
    """Return class probabilities (B, C) by name.

    "combined" is softmax(scale * (mean of g + l) / 2); "global" and "local" are those of each branch alone.
    """
    alone = branches(match)
    combined = sum(alone.values()) / len(alone)
    return {name: (logit_scale * cosine).softmax(dim=-1) for name, cosine in {"combined": combined, **alone}.items()}


@TRAINER_REGISTRY.register()
class SOTGLP(CLIPTrainer):
    """Local-Global Prompt Learning via Sparse Optimal Transport, https://arxiv.org/abs/2603.08347

    Digital Signal Processing 180, 2026.
    """

    NODE = "SOTGLP"
    DEFAULTS = dict(  # the paper's
        N_GLOBAL=3,  # G, prompts shared by all classes; 0 leaves the branch out
        N_LOCAL=4,  # N, prompts of each class; 0 leaves the branch out
        CTX_INIT="A photo of a",  # words that a context starts from; their number is T
        LOCAL_INIT="xavier",  # start of the local contexts: xavier or orthogonal
        PATCHES="vv",  # stream of the patch tokens: vv, last or value
        TOPK=10,  # K, patches of a support; 0 takes all
        SUPPORT="shared",  # by all prompts of a class; or own: each prompt chooses its K patches
        TRANSPORT="balanced",  # or unbalanced, or mean: every patch is shared out evenly
        EPS=0.1,  # entropic regularisation
        PROJECTION=True,  # a learned matrix on the patch tokens; False is the projection-free variant
        PROMPT_DROPOUT=0.75,  # share of the global prompts left out for each training image
        PREC="amp",  # fp32, amp, fp16 or bf16
    )
    RANGES = {
        **{key: "[0, inf)" for key in ("N_GLOBAL", "N_LOCAL", "TOPK")},
        **{"EPS": "(0, inf)", "PROMPT_DROPOUT": "[0, 1]"},
    }

    def make_model(self, clip, names):
        node = self.node
        return build(
            clip,
            names,
            n_global=node.N_GLOBAL,
            n_local=node.N_LOCAL,
            context=node.CTX_INIT,
            topk=node.TOPK,
            eps=node.EPS,
            projection=node.PROJECTION,
            local_init=node.LOCAL_INIT,
            local=node.PATCHES,
            support=node.SUPPORT,
            plan=node.TRANSPORT,
        )

    def losses(self, match, targets, text):
        return sotglp_loss(match, targets, self.model.logit_scale, self.draw(len(targets)))

    def probabilities(self, match):
        return predict(match, self.model.logit_scale)

    def scores(self, match):
        return self.probabilities(match)["combined"]

    def branches(self, match):
        return {name: scores for name, scores in self.probabilities(match).items() if name != "combined"}

    def settings_for_new_classes(self):
        """The global prompts alone serve other classes: local ones belong to theirs."""
        return {"N_LOCAL": 0} if self.node.N_GLOBAL else None


class GlobalBranch(SparseTransportCLIP):
    """For an ablation: global prompts alone, N = 0."""

    def match(self, features, text):
        return Match(similarities(self.to_joint(features[0]), text[0]), None, None, None, None)

    def encode_text(self):
        return self.learned["global_prompts"](self.clip), None


class LocalBranch(SparseTransportCLIP):
    """For an ablation: local prompts alone, G = 0."""

    def match(self, features, text):
        t_local = text[1]
        return super().match(features, (t_local, t_local))._replace(g=None)

    def encode_text(self):
        return None, self.learned["local_prompts"](self.clip)


def build(clip, names, n_global=3, n_local=4, **options):
    """Return the model, or an ablation that lacks a branch; arguments as SparseTransportCLIP's."""
    kind = SparseTransportCLIP if n_global and n_local else GlobalBranch if n_global else LocalBranch
    return kind(clip, names, n_global, n_local, **options)
