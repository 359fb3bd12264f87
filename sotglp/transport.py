"""Balanced entropic optimal transport (Cuturi, arXiv 1306.0895) between patches and prompts.

Letters: K patches of a support, N prompts.
"""

import math
import warnings

import torch

from sotglp import kernels

# Steps between two checks for unsolved problems: a check makes the host wait for a GPU.
STEPS_BETWEEN_CHECKS = 8


@torch.no_grad()
def transport_plan(s: torch.Tensor, eps: float = 0.1, tol: float = 1e-6, max_iter: int = 100_000) -> torch.Tensor:
    """Return the plans that share out K patches among N prompts.

    A plan minimises <plan, 1 - s> - eps * entropy(plan) with uniform marginals: rows sum to 1/K, columns to 1/N. Each
    of the leading problems is solved on its own: its plan does not depend on the others.

    Sinkhorn's scalings are alternating log-softmaxes of the log plan itself. Unlike two potentials, the entries that
    carry mass stay near 0 even if eps is small, so float32 suffices. On CUDA one kernel (``sotglp.kernels``) takes all
    steps without a warning, since the host would have to wait for it.

    Args:
        s: similarities (..., K, N), of any float type.
        eps: entropic regularisation.
        tol: the largest error of a marginal.
        max_iter: the largest number of steps. Warns if a marginal is still off after them.

    Returns:
        Plans (..., K, N) in float32, without a gradient: by the envelope theorem the derivative of the optimal value
        needs none through the plan.

    Raises:
        ValueError: eps is not positive.
    """
    if not eps > 0:
        raise ValueError(f"the entropic regularisation eps must be positive, not {eps}")
    # Problems innermost: there are more of them than patches or prompts, and all sums run across them.
    log_plan = scale_rows((s.flatten(0, -3) if s.dim() > 2 else s[None]).float().permute(1, 2, 0).contiguous() / eps)
    if s.is_cuda and kernels.fits(log_plan):
        kernels.solve(log_plan, tol, max_iter)
    else:
        solve(log_plan, tol, max_iter)
    return log_plan.exp().permute(2, 0, 1).reshape(s.shape)


def solve(log_plan: torch.Tensor, tol: float, max_iter: int) -> None:
    """Take Sinkhorn's steps on log plans (K, N, problems) whose rows are scaled, in place."""
    unsolved = torch.arange(log_plan.shape[-1], device=log_plan.device)
    current, uniform = log_plan, 1 / log_plan.shape[1]
    for _ in range(0, max_iter, STEPS_BETWEEN_CHECKS):
        for _ in range(STEPS_BETWEEN_CHECKS):
            columns = current.logsumexp(dim=0)
            wrong = (columns.exp() - uniform).abs().amax(dim=0) > tol
            # A solved problem stands still, however long its neighbours take; so does one that is NaN.
            current = torch.where(wrong, scale_rows(current - columns), current)
        log_plan[..., unsolved] = current
        unsolved, current = unsolved[wrong], current[..., wrong]
        if not len(unsolved):
            return
    warnings.warn(f"{len(unsolved)} transport plans still miss {tol} after {max_iter} steps", stacklevel=3)


def scale_rows(log_plan: torch.Tensor) -> torch.Tensor:
    """Return the log plans (K, N, problems) with rows that sum to 1/K."""
    return log_plan.log_softmax(dim=1) - math.log(len(log_plan))


@torch.no_grad()
def stopped_sinkhorn(s: torch.Tensor, eps: float, threshold: float, max_iter: int) -> tuple[torch.Tensor, int]:
    """Return plans as PLOT's authors stop them (arXiv 2210.01253), before the marginals are exact.

    Row scalings u and column scalings v of the kernel exp((s - 1) / eps) start from 1. The steps end once u changes by
    less than the threshold in the mean over all problems: a plan depends on the others of its batch.

    Args:
        s: similarities (..., K, N).
        eps: entropic regularisation.
        threshold: the mean change of u below which no further step is taken.
        max_iter: the largest number of steps.

    Returns:
        Plans (..., K, N) without a gradient, and the number of steps.
    """
    kernel = ((s.float() - 1) / eps).exp()
    rows, columns = kernel.shape[-2:]
    u, v = kernel.new_ones(kernel.shape[:-1]), kernel.new_ones((*kernel.shape[:-2], columns))
    steps, change = 0, math.inf
    with torch.autocast(s.device.type, enabled=False):  # the products would be in half precision
        while change >= threshold and steps < max_iter:
            last, u = u, 1 / rows / (kernel @ v[..., None])[..., 0]
            v = 1 / columns / (kernel.mT @ u[..., None])[..., 0]
            steps, change = steps + 1, (u - last).abs().mean().item()
    return u[..., None] * kernel * v[..., None, :], steps


def stopped_plan(s: torch.Tensor, eps: float, threshold: float = 1e-2, max_iter: int = 100) -> torch.Tensor:
    """Return the plans of ``stopped_sinkhorn``."""
    return stopped_sinkhorn(s, eps, threshold, max_iter)[0]


def uniform_plan(s: torch.Tensor, eps: float | None = None) -> torch.Tensor:
    """Return the plan that shares out every patch evenly, for any similarities (..., K, N): no transport."""
    return torch.full_like(s, 1 / (s.shape[-2] * s.shape[-1]), dtype=torch.float32)


@torch.no_grad()
def unbalanced_plan(
    s: torch.Tensor, eps: float = 0.1, relaxation: float = 1.0, tol: float = 1e-6, max_iter: int = 10_000
) -> torch.Tensor:
    """Return plans whose marginals are penalised, not exact (Chizat et al., arXiv 1607.05816).

    Minimises <plan, 1 - s> + eps KL(plan | a b^T) + relaxation (KL(plan 1 | a) + KL(plan^T 1 | b)), with a = 1/K and
    b = 1/N everywhere. The plan's mass need not be 1.

    Args:
        s: similarities (..., K, N).
        eps: entropic regularisation.
        relaxation: weight of the penalty.
        tol: the largest change of a log scaling in the last step.
        max_iter: the largest number of steps.
    """
    rows, columns = s.shape[-2:]
    log_kernel = (s.float() - 1) / eps - math.log(rows * columns)
    damping = relaxation / (relaxation + eps)
    u, v = s.new_zeros((*s.shape[:-1], 1), dtype=torch.float32), s.new_zeros((*s.shape[:-2], 1, columns)).float()
    for step in range(max_iter):
        last = u
        u = -damping * ((log_kernel + v).logsumexp(dim=-1, keepdim=True) + math.log(rows))
        v = -damping * ((log_kernel + u).logsumexp(dim=-2, keepdim=True) + math.log(columns))
        if step % STEPS_BETWEEN_CHECKS == 0 and (u - last).abs().max() <= tol:
            break
    return (log_kernel + u + v).exp()
