"""Count the transport problems solved a second: by us, by POT's and geomloss's batched solvers, and one by one.

python -m benchmarks.transport: random cosines of 10 patches with 4 prompts, one problem for each of 4 images and each
class. Each solver stops by its own rule for the tolerance; geomloss has none yet and takes 100 steps. The errors of
the plans stand beside the speed: the largest error of a marginal, and the largest difference of the first 50 plans
from a solution in float64. It needs `pip install -e ".[benchmarks]"`.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import importlib.util
import statistics
import sys
import warnings

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, seconds_of, write_json
from dassl.utils import UserError, command

K, N, IMAGES = 10, 4, 4
ONE_BY_ONE, SOME = "POT, one by one", 50  # which solves the first 50 problems only


def solvers():
    """Return {name: function of similarities (problems, K, N), eps and tolerance that returns their plans}."""
    import ot  # here, as it imports torch, which takes seconds
    import torch
    from geomloss import ot as geomloss

    from sotglp import transport_plan

    def pot(s, eps, tol):
        return ot.batch.solve_batch(1 - s, eps, max_iter=100_000, tol=tol, method="log_sinkhorn", grad="detach").plan

    def geom(s, eps, tol):  # it takes no tolerance yet, and anneals eps over the steps
        return geomloss.solve_batch(1 - s, reg=eps, max_iter=100).plan

    def loop(s, eps, tol):
        a, b = s.new_full((K,), 1 / K), s.new_full((N,), 1 / N)
        plans = [ot.sinkhorn(a, b, 1 - one, eps, method="sinkhorn_log", stopThr=tol) for one in s]
        return torch.stack(plans)

    return {"ours": transport_plan, "POT, batched": pot, "geomloss, batched": geom, ONE_BY_ONE: loop}


def measure(solvers, problems, eps, tol, turns):
    """Run the solvers in turn and yield the table's row of each."""
    import torch

    s = 0.2 + 0.1 * torch.randn(problems, K, N, generator=torch.Generator().manual_seed(0))
    exact = transport_plan64(s[:SOME].double(), eps)
    seconds, plans = {name: [] for name in solvers}, {}
    for _ in range(turns):
        for name, solve in solvers.items():
            some = s[:SOME] if name == ONE_BY_ONE else s
            taken, plans[name] = seconds_of(lambda solve=solve, some=some: solve(some, eps, tol))
            seconds[name].append(taken / len(some))
    for name, plan in plans.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ours"], strict=True)]
        yield {
            "solver": name,
            "problems": len(plan),
            "eps": eps,
            "problems a second": 1 / statistics.median(seconds[name]),
            "x ours": statistics.median(ratios),
            "marginal": max((plan.sum(-1) - 1 / K).abs().max().item(), (plan.sum(-2) - 1 / N).abs().max().item()),
            "difference": (plan[:SOME] - exact).abs().max().item(),
        }


def transport_plan64(s, eps):
    """Return plans in float64, by many plain Sinkhorn steps."""
    import torch

    u, v = s.new_zeros(*s.shape[:2], 1), s.new_zeros(len(s), 1, N)
    for _ in range(20_000):
        u = -torch.logsumexp(s / eps + v, dim=2, keepdim=True)
        v = -torch.logsumexp(s / eps + u, dim=1, keepdim=True) + torch.log(torch.tensor(K / N, dtype=s.dtype))
    return (s / eps + u + v).exp() / K


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000], help="numbers of classes")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.1, 0.01], help="entropic regularisations")
    parser.add_argument("--tol", type=float, default=1e-6, help="tolerance of the marginals")
    parser.add_argument("--turns", type=int, default=1, help="runs of each solver")
    args = parser.parse_args(argv)
    if missing := [name for name in ("ot", "geomloss") if not importlib.util.find_spec(name)]:
        raise UserError(f'{" and ".join(missing)} missing: pip install -e ".[benchmarks]"')
    known, rows = solvers(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other solvers' that they stopped early: the errors show it
        for eps in args.eps:
            for classes in args.classes:
                rows += measure(known, IMAGES * classes, eps, args.tol, args.turns)
    print(tabulate(rows, "keys", floatfmt=("", "", "", ".0f", ".2f", ".0e", ".0e")))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())
