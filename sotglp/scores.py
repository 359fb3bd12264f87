"""Out-of-distribution scores of a match: the larger, the more out-of-distribution.

Letters: B images, P patches, C classes, K patches of a support, N prompts of a class, l local logit, H groups of m
negatives, D joint dimension.
"""

from collections.abc import Callable, Iterator, Mapping

import torch

from sotglp.interface import ImageFeatures
from sotglp.matching import Match, Matched
from sotglp.negatives import neg_label_of

Law = Callable[[], torch.Tensor]


class Scores(Mapping[str, torch.Tensor]):
    """Scores (B,) by name. Each is computed when it is read, as some take long.

    Args:
        laws: {name: function that returns the score}.
    """

    def __init__(self, laws: Mapping[str, Law]) -> None:
        self.laws = laws

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.laws[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.laws)

    def __len__(self) -> int:
        return len(self.laws)


def image_cosines(match: Matched) -> torch.Tensor:
    """Return the cosines (B, C) of the global branch, averaged over its prompts.

    Raises:
        ValueError: the match has no global branch.
    """
    if match.g is None:
        raise ValueError("this score needs global prompts, which the match does not have")
    return match.g.float().mean(dim=-1)


def mcm(match: Matched, tau: float = 1.0) -> torch.Tensor:
    """Return maximum concept matching (Ming et al., arXiv 2211.13445) of the global branch: (B,).

    As all scores here: the larger, the more out-of-distribution.

    Args:
        match: of a batch of images.
        tau: softmax temperature of the cosines.
    """
    return -(image_cosines(match) / tau).softmax(dim=-1).amax(dim=-1)


def l_mcm(match: Matched, tau: float = 1.0) -> torch.Tensor:
    """Return MCM of the best patch and class, of all P patches (Miyai et al., arXiv 2304.04521): (B,)."""
    if match.s is None:
        raise ValueError("this score needs patches, which the match does not have")
    return -(match.s.float() / tau).softmax(dim=-1).amax(dim=(-2, -1))


def gl_mcm(match: Matched, tau: float = 1.0) -> torch.Tensor:
    """Return MCM + L-MCM: (B,)."""
    return mcm(match, tau) + l_mcm(match, tau)


def max_logit(match: Matched, logit_scale: torch.Tensor | float) -> torch.Tensor:
    """Return the negative of the global branch's largest logit (Hendrycks et al., arXiv 1911.11132): (B,)."""
    return -(logit_scale * image_cosines(match)).amax(dim=-1)


def energy(match: Matched, logit_scale: torch.Tensor | float) -> torch.Tensor:
    """Return the free energy (Liu et al., arXiv 2010.03759) of the global branch's logits, at temperature 1: (B,)."""
    return -(logit_scale * image_cosines(match)).logsumexp(dim=-1)


def neg_label_of_images(
    match: Matched, images: torch.Tensor, negatives: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Return NegLabel (``sotglp.negatives``) of the global branch, at the temperature of the logits: (B,).

    With OpenAI's weights that is the published 0.01.

    Args:
        match: of a batch of images.
        images: their normalised features (B, D).
        negatives: normalised text features (H, m, D).
        logit_scale: factor of the cosines.
    """
    return neg_label_of(images[:, None], image_cosines(match)[:, None], negatives, 1 / logit_scale)[:, 0]


def l_neg_label(
    match: Matched, patches: torch.Tensor | None, negatives: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Return NegLabel of the patch that is most in-distribution: (B,). It is a definition of ours.

    Args:
        match: of a batch of images.
        patches: their normalised features (B, P, D).
        negatives, logit_scale: as in ``neg_label_of_images``.
    """
    if match.s is None or patches is None:
        raise ValueError("this score needs patches, which the match does not have")
    return neg_label_of(patches, match.s.float(), negatives, 1 / logit_scale).amin(dim=-1)


def of_best_class(match: Match, values: torch.Tensor | None) -> torch.Tensor:
    """Return the values (B, ...) of the class with the largest local logit, of values (B, C, ...).

    Raises:
        ValueError: the match has no plan.
    """
    if values is None or match.plan is None or match.l is None:
        raise ValueError("this score needs a transport plan, which the match does not have")
    best = match.l.argmax(dim=1)
    return values[torch.arange(len(best), device=best.device), best]


def plan_logit(match: Match) -> torch.Tensor:
    """Return the negative of the best class's transported local logit l: (B,). It is a definition of ours."""
    return -of_best_class(match, match.l).float()


def plan_entropy(match: Match) -> torch.Tensor:
    """Return the entropy of the best class's plan, in nats: (B,). It is a definition of ours.

    A plan that shares out all patches evenly has found no structure: its entropy is the largest.
    """
    return torch.special.entr(of_best_class(match, match.plan).float()).sum(dim=(-2, -1))


def off_support(match: Match, logit_scale: torch.Tensor | float) -> torch.Tensor:
    """Return the mass outside the best class's support: (B,). It is a definition of ours.

    The mass is the softmax of the scaled cosines s of all P patches with the class: an image of it has few like it.
    """
    if match.s is None or match.support is None:
        raise ValueError("this score needs a support, which the match does not have")
    mass = of_best_class(match, logit_scale * match.s.float().transpose(1, 2)).softmax(dim=1)  # (B, P)
    support = of_best_class(match, match.support).flatten(1)  # of each prompt, if each has its own
    return mass.scatter(1, support, 0).sum(dim=1)


def ood_scores(
    match: Matched,
    logit_scale: torch.Tensor | float,
    tau: float = 1.0,
    joint: Callable[[], ImageFeatures] | None = None,
    negatives: Mapping[str, Law] | None = None,
) -> Scores:
    """Return the scores that a match allows: of the image if it has g, of the patches if it has s, of a plan.

    Args:
        match: of a batch of images.
        logit_scale: factor of the cosines in logits.
        tau: softmax temperature of the cosines in MCM, L-MCM and GL-MCM.
        joint: function that returns normalised features of the images (B, D) and patches (B, P, D), for NegLabel.
        negatives: functions that return normalised text features (H, m, D) of negatives, by the names of the scores
            with them: NegLabel, whose negatives L-NegLabel shares, and P-NegLabel.
    """
    laws: dict[str, Law] = {}
    if match.g is not None:
        laws["MCM"] = lambda: mcm(match, tau)
        laws["MaxLogit"] = lambda: max_logit(match, logit_scale)
        laws["Energy"] = lambda: energy(match, logit_scale)
    if match.s is not None:
        laws["L-MCM"] = lambda: l_mcm(match, tau)
    if match.g is not None and match.s is not None:
        laws["GL-MCM"] = lambda: gl_mcm(match, tau)
    if joint is not None and negatives:
        if match.g is not None:

            def of_images(text: Law) -> Law:
                return lambda: neg_label_of_images(match, joint()[0], text(), logit_scale)

            laws.update({name: of_images(text) for name, text in negatives.items()})
        if match.s is not None:
            laws["L-NegLabel"] = lambda: l_neg_label(match, joint()[1], negatives["NegLabel"](), logit_scale)
    if isinstance(match, Match) and match.plan is not None:
        laws["PlanLogit"] = lambda: plan_logit(match)
        laws["PlanEntropy"] = lambda: plan_entropy(match)
        if match.s is not None and match.support is not None:
            laws["OffSupport"] = lambda: off_support(match, logit_scale)
    return Scores(laws)
