"""Out-of-distribution scores of a match: the larger, the more out-of-distribution.

Letters: B images, P patches, C classes.
"""

import torch

from sotglp.matching import Matched


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


def ood_scores(match: Matched, logit_scale: torch.Tensor | float, tau: float = 1.0) -> dict[str, torch.Tensor]:
    """Return {name: (B,)} of the scores that a match allows: of the image if it has g, of the patches if it has s."""
    scores = {}
    if match.g is not None:
        scores["MCM"] = mcm(match, tau)
        scores["MaxLogit"] = max_logit(match, logit_scale)
        scores["Energy"] = energy(match, logit_scale)
    if match.s is not None:
        scores["L-MCM"] = l_mcm(match, tau)
    if match.g is not None and match.s is not None:
        scores["GL-MCM"] = gl_mcm(match, tau)
    return scores
