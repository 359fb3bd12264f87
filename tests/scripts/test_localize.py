"""Whether supports lie on the object: laws of the figures, and the table of runs on Scenes."""

import pytest
import torch

import train
from scripts import localization, localize
from scripts.methods import read_methods
from scripts.run import make_runs
from sotglp import Match

P, C, K, N = 16, 3, 4, 2


@pytest.fixture
def match():
    """Two images whose true classes are 1 and 2; class 1 of the first keeps patches 0 to 3, the other's 4 to 7."""
    s = torch.zeros(2, P, C)
    s[0, :4, 1], s[1, 4:8, 2] = torch.tensor([4.0, 3, 2, 1]), torch.tensor([4.0, 3, 2, 1])
    support = s.transpose(1, 2).topk(K, dim=2).indices
    plan = torch.zeros(2, C, K, N)
    plan[0, 1, :2, 0] = plan[0, 1, 2:, 1] = 0.25  # apart
    plan[1, 2] = 0.125  # alike
    return Match(None, s, support, plan, None)


def test_figures_of_a_known_match(match):
    inside = torch.zeros(2, P, dtype=torch.bool)
    inside[0, 1:9], inside[1, 4:6] = True, True
    labels = torch.tensor([1, 2])
    values = localization.of_image(match, inside, labels)
    expected = {
        "support in the box": [75, 50],
        "best patch in it": [0, 100],
        "chance": [50, 12.5],
        "overlap": [0, 1],
        "entropy": [0, 1],
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name].tolist() == pytest.approx(value), name


def test_methods_without_a_support_or_a_plan(match):
    inside, labels = torch.zeros(2, P, dtype=torch.bool), torch.tensor([1, 2])
    inside[:, :4] = True
    values = localization.of_image(match._replace(support=None, plan=None), inside, labels)
    assert values.keys() == {"support in the box", "best patch in it", "chance"}
    assert values["best patch in it"].tolist() == [100, 0]
    everywhere = torch.full((2, C, P, N), 1 / (P * N))  # a plan of all patches
    values = localization.of_image(match._replace(support=None, plan=everywhere), inside, labels)
    torch.testing.assert_close(values["entropy"], torch.ones(2))
    own = torch.stack([match.support, match.support], dim=-1)  # each prompt has its own support
    values = localization.of_image(match._replace(support=own), inside, labels)
    assert values["support in the box"].tolist() == [100, 0]


@pytest.mark.slow
def test_the_table_of_runs_and_mistakes(environment, tmp_path, monkeypatch, capsys):
    for name, value in {"DATA": str(tmp_path / "data"), "SEEDS": "1 2"}.items():
        monkeypatch.setenv(name, value)
    methods = read_methods()
    chosen = [methods["SOT-GLP, with projection"], methods["zero-shot CLIP"]]
    runs = make_runs(chosen, ["scenes"], ["1"], ["OPTIM.MAX_EPOCH", "1", "DATASET.SUBSAMPLE_CLASSES", "base"])
    for run in runs:
        assert train.main(run.arguments) == 0
    folders = sorted({str(run.folder.parent) for run in runs})
    capsys.readouterr()
    assert localize.main(folders) == 0
    text = capsys.readouterr().out
    assert "SOT-GLP, with projection" in text and "zero-shot" not in text  # it reads no patches
    assert "Of all patches" in text and "±" in text

    (other,) = make_runs(chosen[1:], ["fashion_mnist"], ["1"], ["TEST.SPLIT", "val"])
    assert train.main(other.arguments) == 0
    capsys.readouterr()
    for arguments, message in (([str(other.folder.parent)], "no runs on Scenes"), ([str(tmp_path)], "no finished run")):
        assert localize.main(arguments) == 2
        assert message in capsys.readouterr().err
