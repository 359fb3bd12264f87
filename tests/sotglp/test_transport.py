"""Laws of the transport plan, and POT as an independent solver."""

import math
import os
import subprocess
import sys
import warnings

import ot
import pytest
import torch

from sotglp.transport import stopped_sinkhorn, transport_plan


def cosines(*shape, seed=0, spread=0.1):
    return 0.25 + spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_marginals(plan, atol=1e-5):
    rows, columns = plan.shape[-2:]
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(-1), torch.full(plan.shape[:-1], 1 / rows), rtol=0, atol=atol)
    torch.testing.assert_close(plan.sum(-2), torch.full((*plan.shape[:-2], columns), 1 / columns), rtol=0, atol=atol)


@pytest.mark.parametrize("eps", [0.005, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("rows, columns", [(10, 4), (10, 6), (5, 4), (1, 3), (7, 1), (1, 1), (64, 8)])
def test_marginals(eps, rows, columns):
    assert_marginals(transport_plan(cosines(4, 3, rows, columns), eps))


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
def test_equals_pot(eps):
    s = cosines(6, 10, 4)
    plans = transport_plan(s, eps)
    for similarity, plan in zip(s.double(), plans, strict=True):
        a, b = torch.full((10,), 0.1, dtype=torch.float64), torch.full((4,), 0.25, dtype=torch.float64)
        reference = ot.sinkhorn(a, b, 1 - similarity, eps, method="sinkhorn_log", numItermax=20000, stopThr=1e-9)
        torch.testing.assert_close(plan.double(), reference, rtol=0, atol=2e-4 * reference.max().item())


@pytest.mark.parametrize("eps", [0.05, 0.1, 1.0])
def test_unstopped_steps_reach_pots_plans(eps):
    s = cosines(6, 10, 4)
    plans, steps = stopped_sinkhorn(s, eps, threshold=0.0, max_iter=300)
    assert steps == 300 and not plans.requires_grad
    for similarity, plan in zip(s.double().numpy(), plans, strict=True):
        reference = ot.sinkhorn([1 / 10] * 10, [1 / 4] * 4, 1 - similarity, eps, method="sinkhorn_log", stopThr=1e-12)
        torch.testing.assert_close(plan.double(), torch.tensor(reference), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("threshold, max_iter", [(10.0, 100), (1.0, 100), (1e-2, 100), (1e-2, 3)])
def test_steps_stop_where_the_row_scalings_of_all_problems_hardly_change(threshold, max_iter):
    similar = [cosines(5, 3, spread=spread).double() for spread in (0.02, 0.3)]
    plans, steps = stopped_sinkhorn(torch.stack(similar), 0.1, threshold, max_iter)
    kernels = [[[math.exp((x - 1) / 0.1) for x in row] for row in s.tolist()] for s in similar]
    u, v = [[1.0] * 5 for _ in similar], [[1.0] * 3 for _ in similar]
    taken, change = 0, math.inf
    while change >= threshold and taken < max_iter:
        taken, change = taken + 1, 0.0
        for problem, k in enumerate(kernels):
            new = [1 / 5 / sum(k[i][j] * v[problem][j] for j in range(3)) for i in range(5)]
            change += sum(abs(a - b) for a, b in zip(new, u[problem], strict=True)) / 10  # rows of all problems
            u[problem] = new
            v[problem] = [1 / 3 / sum(k[i][j] * new[i] for i in range(5)) for j in range(3)]
    assert steps == taken
    for problem, k in enumerate(kernels):
        slow = [[u[problem][i] * k[i][j] * v[problem][j] for j in range(3)] for i in range(5)]
        torch.testing.assert_close(plans[problem], torch.tensor(slow), rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.005, 0.1, 10.0])
def test_marginals_hold_to_1e_6_without_warning(eps, dtype):
    one_hot = torch.eye(4).repeat(3, 1)[:10]
    for s in (torch.full((10, 4), 0.3), one_hot, cosines(10, 4), cosines(1, 4), cosines(10, 1)):
        assert_marginals(transport_plan(s.to(dtype), eps), atol=1.2e-6)


def test_equal_similarities_give_the_product_of_the_marginals():
    torch.testing.assert_close(transport_plan(torch.full((2, 5, 4), 0.3), 0.1), torch.full((2, 5, 4), 1 / 20))


def test_small_eps_finds_the_permutation():
    order = torch.tensor([2, 0, 3, 1])
    plan = transport_plan(torch.eye(4)[order], 0.005)
    torch.testing.assert_close(plan, torch.eye(4)[order] / 4, rtol=0, atol=1e-6)


def test_one_hot_similarities_of_one_prompt_are_still_shared_out():
    s = torch.nn.functional.one_hot(torch.zeros(10, dtype=torch.long), 4).float()
    assert_marginals(transport_plan(s, 0.005))


def test_a_plan_does_not_depend_on_its_batch():
    s = torch.cat([cosines(4, 10, 4), cosines(1, 10, 4, spread=1.0)])  # the last takes many more steps
    together = transport_plan(s, 0.05)
    for i in range(len(s)):
        torch.testing.assert_close(transport_plan(s[i], 0.05), together[i], rtol=1e-5, atol=1e-9)


def test_permuting_patches_permutes_the_plan():
    s, order = cosines(10, 4), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(transport_plan(s[order], 0.1), transport_plan(s, 0.1)[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_solved_in_float32(dtype):
    s = cosines(3, 10, 4).to(dtype)
    plan = transport_plan(s, 0.01)
    assert plan.dtype == torch.float32
    assert_marginals(plan)


def test_no_gradient_through_the_plan():
    assert not transport_plan(cosines(10, 4).requires_grad_(), 0.1).requires_grad


def test_nan_stays_in_its_own_problem():
    s = cosines(3, 10, 4)
    s[1, 0, 0] = math.nan
    plan = transport_plan(s, 0.1)
    assert plan[1].isnan().any()
    torch.testing.assert_close(plan[[0, 2]], transport_plan(s[[0, 2]], 0.1))


@pytest.mark.parametrize("eps", [0, -1.0, math.nan])
def test_bad_eps_is_refused(eps):
    with pytest.raises(ValueError, match="eps"):
        transport_plan(cosines(10, 4), eps)


def test_too_few_steps_are_reported():
    with pytest.warns(UserWarning, match="transport plans"):
        transport_plan(cosines(10, 4, spread=1.0), 0.01, max_iter=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transport_plan(cosines(10, 4), 0.01)


# Compared with the steps of PyTorch on problems of one and of several programs, full and not full.
IN_THE_INTERPRETER = """
import torch
from sotglp import kernels, transport

for shape in [(10, 4, 37), (10, 4, 70), (1, 1, 3), (1, 3, 5), (7, 1, 2), (64, 8, 3), (196, 4, 9), (5, 6, 9)]:
    for eps in (0.02, 0.1, 10):
        s = 0.25 + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        s[0, 0, 1] = float("nan")
        one = transport.scale_rows(s / eps)
        other = one.clone()
        assert kernels.fits(other)
        transport.solve(one, 1e-6, 100_000)
        kernels.solve(other, 1e-6, 100_000)
        assert other[..., 1].isnan().any() and not other[..., 2:].isnan().any()
        torch.testing.assert_close(other.exp(), one.exp(), rtol=1e-5, atol=1e-7, equal_nan=True)
assert not kernels.fits(torch.empty(196, 64, 1))
"""


@pytest.mark.slow
def test_the_kernel_takes_the_steps_of_pytorch():
    pytest.importorskip("triton")
    command = [sys.executable, "-c", IN_THE_INTERPRETER]
    subprocess.run(command, check=True, env={**os.environ, "TRITON_INTERPRET": "1"})
