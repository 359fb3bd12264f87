"""The rule by which learning rates of the small CLIP are chosen."""

import json

import pytest

from scripts.embedded import learning_rates
from scripts.methods import CONFIGS, read_methods, read_yaml
from scripts.run import make_runs


def test_rates_are_multiples_of_the_published_one():
    assert learning_rates.rates("CoOp") == (0.002, 0.01, 0.05, 0.2, 1.0)
    assert learning_rates.rates("CLIPLoRA") == (0.0002, 0.001, 0.005, 0.02, 0.1)
    for without in ("ZeroshotCLIP", "GDA", "LPPP", "TipAdapter", "LinearProbe"):
        assert learning_rates.rates(without) == ()


def test_the_smallest_of_the_best_is_chosen_and_failed_runs_do_not_count():
    assert learning_rates.best({1.0: 50.0, 0.2: 50.0, 0.05: 40.0, 5.0: None}) == 0.2
    assert learning_rates.best({1.0: None}) is None


def test_means_are_over_seeds_and_variants_and_need_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    methods = read_methods()
    chosen = [methods["CoOp, shared context"], methods["CoOp, class-specific contexts"]]
    runs = make_runs([learning_rates.at_rate(m, 0.2) for m in chosen], ["fashion_mnist"], [16], seeds=(11, 12))
    assert len({run.folder for run in runs}) == 4
    for run, accuracy in zip(runs, (40, 50, 60, 80), strict=True):
        assert learning_rates.mean_accuracy(runs) is None
        assert run.arguments[run.arguments.index("OPTIM.LR") + 1] == "0.2"
        run.folder.mkdir(parents=True)
        results = {"metrics": {"accuracy": accuracy}, "seed": run.seed}
        (run.folder / "results.json").write_text(json.dumps(results))
    assert learning_rates.mean_accuracy(runs) == pytest.approx(57.5)


def test_the_page_and_the_configurations_hold_what_the_rule_chose():
    page = (CONFIGS.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    table = page.partition("<!-- rates -->\n")[2].partition("<!-- end of rates -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]
    assert len(rows) == 16
    for trainer, published, *accuracies, chosen in rows:
        tried = learning_rates.rates(name := trainer.strip("`"))
        known = {rate: float(cell) if cell else None for rate, cell in zip(tried, accuracies, strict=True)}
        assert float(published) == tried[0]
        assert (
            learning_rates.best(known)
            == float(chosen)
            == read_yaml(CONFIGS / f"trainers/{name}/small.yaml")["OPTIM"]["LR"]
        )
