"""Predictions and out-of-distribution scores of a Match."""

from typing import NamedTuple

import torch


class Prediction(NamedTuple):
    """Class probabilities (B, C) of both branches together, and of each alone (None if it is left out)."""

    combined: torch.Tensor
    global_: torch.Tensor
    local: torch.Tensor


def predict(match, logit_scale):
    """softmax(scale * (mean of g + l) / 2), and the same of the global and the local part alone."""
    logits = None if match.g is None else match.g.float().mean(dim=-1), None if match.l is None else match.l.float()
    used = [branch for branch in logits if branch is not None]
    combined = sum(used) / len(used)
    return Prediction(*(None if x is None else (logit_scale * x).softmax(dim=-1) for x in (combined, *logits)))


def mcm(match, tau=1.0):
    """Maximum concept matching (Ming et al., arXiv 2211.13445) of the global branch: (B,).

    As all scores here: the larger, the more out-of-distribution. tau is the softmax temperature of the cosines.
    """
    return -(match.g.float().mean(dim=-1) / tau).softmax(dim=-1).amax(dim=-1)


def l_mcm(match, tau=1.0):
    """MCM of the best patch and class, on all P patches (Miyai et al., arXiv 2304.04521): (B,)."""
    return -(match.s.float() / tau).softmax(dim=-1).amax(dim=(-2, -1))


def gl_mcm(match, tau=1.0):
    """MCM + L-MCM: (B,)."""
    return mcm(match, tau) + l_mcm(match, tau)


def max_logit(match, logit_scale):
    """The largest logit (Hendrycks et al., arXiv 1911.11132) of the global branch, negative: (B,)."""
    return -(logit_scale * match.g.float().mean(dim=-1)).amax(dim=-1)


def energy(match, logit_scale):
    """Free energy (Liu et al., arXiv 2010.03759) of the global branch's logits, at temperature 1: (B,)."""
    return -(logit_scale * match.g.float().mean(dim=-1)).logsumexp(dim=-1)


def ood_scores(match, logit_scale, tau=1.0):
    """{name: (B,)} of the scores that a match allows: of the image where it has g, of the patches where it has s."""
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
