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

    As all scores here: the larger, the more out-of-distribution. tau is the softmax temperature.
    """
    return -(match.g.mean(dim=-1) / tau).softmax(dim=-1).amax(dim=-1)


def l_mcm(match, tau=1.0):
    """MCM of the best patch and class, on all P patches (Miyai et al., arXiv 2304.04521): (B,)."""
    return -(match.s.mean(dim=-1) / tau).softmax(dim=-1).amax(dim=(-2, -1))


def gl_mcm(match, tau=1.0):
    """MCM + L-MCM: (B,)."""
    return mcm(match, tau) + l_mcm(match, tau)
