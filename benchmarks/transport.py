"""Transport problems solved a second: ours, POT's and geomloss's batched solvers, and a loop over problems.

``python benchmarks/transport.py``: random cosines of 10 patches with 4 prompts, one problem for each of 4 images and
so many classes; every solver goes on until its own rule for the tolerance is met, geomloss, which has none yet, for
100 steps. Beside the speed stands what the plans are worth: the largest error of a marginal, and the largest difference
of the first 50 from a solution in float64.
Needs ``pip install -e ".[benchmarks]"``.

Exit code: 0 done, 1 something failed.
"""

import argparse
import statistics
import sys
import time
import warnings

import ot
import torch
from geomloss import ot as geomloss
from tabulate import tabulate

from benchmarks.measure import write_json
from sotglp import transport_plan

K, N, IMAGES, LOOP = 10, 4, 4, 50  # the loop solves so many problems only


def ours(s, eps, tol):
    return transport_plan(s, eps, tol)


def pot(s, eps, tol):
    return ot.batch.solve_batch(1 - s, eps, max_iter=100_000, tol=tol, method="log_sinkhorn", grad="detach").plan


def geom(s, eps, tol):
    """Without a tolerance: it takes none yet, and anneals eps for so many steps."""
    return geomloss.solve_batch(1 - s, reg=eps, max_iter=100).plan


def loop(s, eps, tol):
    a, b = s.new_full((K,), 1 / K), s.new_full((N,), 1 / N)
    return torch.stack([ot.sinkhorn(a, b, 1 - one, eps, method="sinkhorn_log", stopThr=tol) for one in s])


SOLVERS = {"ours": ours, "POT, batched": pot, "geomloss, batched": geom, "POT, one by one": loop}


def measure(problems, eps, tol, turns):
    """[{solver, problems a second, ...}] of all solvers in turn."""
    s = 0.2 + 0.1 * torch.randn(problems, K, N, generator=torch.Generator().manual_seed(0))
    exact = transport_plan64(s[:LOOP].double(), eps)
    seconds, plans = {name: [] for name in SOLVERS}, {}
    for _ in range(turns):
        for name, solve in SOLVERS.items():
            some = s[:LOOP] if solve is loop else s
            start = time.perf_counter()
            plans[name] = solve(some, eps, tol)
            seconds[name].append((time.perf_counter() - start) / len(some))
    for name, plan in plans.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ours"], strict=True)]
        yield {
            "solver": name,
            "problems": len(plan),
            "eps": eps,
            "problems a second": 1 / statistics.median(seconds[name]),
            "x ours": statistics.median(ratios),
            "marginal": max((plan.sum(-1) - 1 / K).abs().max().item(), (plan.sum(-2) - 1 / N).abs().max().item()),
            "difference": (plan[:LOOP] - exact).abs().max().item(),
        }


def transport_plan64(s, eps):
    """Plans in float64, by many plain Sinkhorn steps."""
    u, v = s.new_zeros(*s.shape[:2], 1), s.new_zeros(len(s), 1, N)
    for _ in range(20_000):
        u = -torch.logsumexp(s / eps + v, dim=2, keepdim=True)
        v = -torch.logsumexp(s / eps + u, dim=1, keepdim=True) + torch.log(torch.tensor(K / N, dtype=s.dtype))
    return (s / eps + u + v).exp() / K


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], help="numbers of classes")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.01], help="entropic regularisations")
    parser.add_argument("--tol", type=float, default=1e-6, help="tolerance of the marginals")
    parser.add_argument("--turns", type=int, default=1, help="times that each solver is run")
    parser.add_argument("--json", help="file for all measurements")
    args = parser.parse_args(argv)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the others, that they stopped short: the errors say so
        for eps in args.eps:
            for classes in args.classes:
                rows += measure(IMAGES * classes, eps, args.tol, args.turns)
    print(tabulate(rows, "keys", floatfmt=("", "", "", ".0f", ".2f", ".0e", ".0e")))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
