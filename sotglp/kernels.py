"""Sinkhorn's steps as one CUDA kernel in Triton: a problem stays in registers until it is solved.

Letters: K patches of a support (rows), N prompts (columns).
"""

import math

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for CUDA comes with it
    triton = None

LARGEST = 8192  # entries of a plan, padded to powers of two, that registers hold
BLOCK = 2048  # entries that one program holds, of several small problems


def fits(log_plan: torch.Tensor) -> bool:
    """Return whether Triton is installed and plans (K, N, problems) are small enough for the kernel."""
    return triton is not None and math.prod(padded(log_plan)) <= LARGEST


def padded(log_plan: torch.Tensor) -> list[int]:
    """Return K and N, each rounded up to a power of two."""
    return [triton.next_power_of_2(n) for n in log_plan.shape[:2]]


def solve(log_plan: torch.Tensor, tol: float, max_iter: int) -> None:
    """Do in place what ``sotglp.transport.solve`` does, without its warning about unsolved problems."""
    rows, columns, problems = log_plan.shape
    block_rows, block_columns = padded(log_plan)
    block = max(BLOCK // (block_rows * block_columns), 1)
    blocks = dict(ROWS=block_rows, COLUMNS=block_columns, PROBLEMS=block)
    with torch.cuda.device_of(log_plan):
        grid = (triton.cdiv(problems, block),)
        sinkhorn[grid](log_plan, rows, columns, problems, math.log(rows), tol, max_iter, **blocks)


if triton is not None:

    @triton.jit
    def logsumexp(x, inside, axis: tl.constexpr):
        """Return it over an axis, which is kept with length 1; 0 where nothing is inside."""
        largest = tl.where(inside, tl.max(x, axis=axis, keep_dims=True), 0.0)
        return tl.where(inside, largest + tl.log(tl.sum(tl.exp(x - largest), axis=axis, keep_dims=True)), 0.0)

    @triton.jit
    def sinkhorn(
        log_plan,
        rows,
        columns,
        problems,
        log_rows,
        tol,
        max_iter,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
        PROBLEMS: tl.constexpr,
    ):
        """Solve PROBLEMS plans of ROWS x COLUMNS entries (padded) in one program."""
        k = tl.arange(0, ROWS)[:, None, None]
        n = tl.arange(0, COLUMNS)[None, :, None]
        q = tl.program_id(0) * PROBLEMS + tl.arange(0, PROBLEMS)[None, None, :]
        places = log_plan + (k * columns + n).to(tl.int64) * problems + q
        inside = (k < rows) & (n < columns) & (q < problems)
        x = tl.load(places, mask=inside, other=float("-inf"))
        step, unsolved = 0, 1
        while (unsolved > 0) & (step < max_iter):
            sums = logsumexp(x, (n < columns) & (q < problems), axis=0)
            error = tl.where((n < columns) & (q < problems), tl.abs(tl.exp(sums) - 1.0 / columns), 0.0)
            wrong = tl.max(error, axis=1, keep_dims=True) > tol
            scaled = x - sums
            scaled -= logsumexp(scaled, (k < rows) & (q < problems), axis=1) + log_rows
            x = tl.where(wrong & inside, scaled, x)
            unsolved = tl.max(tl.max(tl.max(wrong.to(tl.int32), axis=2), axis=1), axis=0)
            step += 1
        tl.store(places, x, mask=inside)
