"""Balanced entropic optimal transport (Cuturi, arXiv 1306.0895) between patches and prompts."""

import math
import warnings

import torch

# Problems are looked at this often: a look makes the host wait for a GPU.
_STEPS_BETWEEN_LOOKS = 8


@torch.no_grad()
def transport_plan(s, eps=0.1, tol=1e-6, max_iter=100_000):
    """The plan that shares out K patches among N prompts.

    Minimises <plan, 1 - s> - eps * entropy(plan) with uniform marginals: rows sum to 1/K, columns to 1/N.

    s: similarities (..., K, N), any float type; each of the leading problems is solved on its own, and its plan does
        not depend on the others. tol: the largest error of a marginal. Returns float32 plans (..., K, N), without a
        gradient: by the envelope theorem the derivative of the optimal value needs none through the plan.
    Sinkhorn's scalings are alternating log-softmaxes of the log plan itself. Kept so, and not as two potentials, the
    entries that carry mass stay near 0 however small eps is, and float32 suffices.
    Raises ValueError unless eps > 0; warns if a marginal is still off after max_iter iterations.
    """
    if not eps > 0:
        raise ValueError(f"the entropic regularisation eps must be positive, not {eps}")
    rows, columns = s.shape[-2:]
    log_plan = _scale_rows(s.reshape(-1, rows, columns).float() / eps)
    unsolved = torch.arange(len(log_plan), device=s.device)
    for _ in range(0, max_iter, _STEPS_BETWEEN_LOOKS):
        current = log_plan[unsolved]
        for _ in range(_STEPS_BETWEEN_LOOKS):
            error = (current.exp().sum(dim=-2) - 1 / columns).abs().amax(dim=-1)
            step = _scale_rows(current.log_softmax(dim=-2))
            # A solved problem stands still, however long its neighbours take; so does one that is NaN.
            current = torch.where((error > tol)[:, None, None], step, current)
        log_plan[unsolved] = current
        unsolved = unsolved[error > tol]
        if not len(unsolved):
            break
    else:
        warnings.warn(f"{len(unsolved)} transport plans still miss {tol} after {max_iter} steps", stacklevel=2)
    return log_plan.exp().view(s.shape)


def _scale_rows(log_plan):
    return log_plan.log_softmax(dim=-1) - math.log(log_plan.shape[-2])
