"""Laws of the quantities that visualize.py draws, and its figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import sotglp
import train
from dassl.finished import FinishedRun
from scripts import prompt_figures, report, report_hardest, visualize
from scripts.methods import read_methods
from scripts.run import make_runs

P, K, N = 16, 5, 3


def plan_of(own=False):
    """A support and a transport plan of random similarities, on all patches (2, P, N)."""
    s = torch.randn(2, K, N, generator=torch.Generator().manual_seed(0))
    shape = (2, N, P) if own else (2, P)
    support = torch.rand(shape, generator=torch.Generator().manual_seed(1)).argsort(dim=-1)[..., :K]
    support = support.transpose(-1, -2) if own else support
    return support, prompt_figures.spread_out(support, sotglp.transport_plan(s), P)


@pytest.mark.parametrize("own", [False, True])
def test_the_partition_covers_exactly_the_support_and_shares_sum_to_one(own):
    support, plan = plan_of(own)
    prompt, sure = prompt_figures.partition(plan)
    kept = torch.zeros(2, P, dtype=torch.bool).scatter(1, support.flatten(1), True)
    assert torch.equal(prompt >= 0, kept)
    share = prompt_figures.shares(plan)
    torch.testing.assert_close(share[kept].sum(dim=-1), torch.ones(int(kept.sum())))
    assert torch.equal(share.isnan().all(dim=-1), ~kept)
    torch.testing.assert_close(sure[kept], share[kept].gather(1, prompt[kept][:, None])[:, 0])
    torch.testing.assert_close(plan.sum(dim=(1, 2)), torch.ones(2))  # nothing is lost on the way


def test_overlap_and_entropy_of_known_plans():
    plan = torch.zeros(4, 3)
    plan[:2, 0] = plan[:2, 1] = 1  # prompts 1 and 2 share two patches, 3 has the others
    plan[2:, 2] = 1
    expected = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert torch.equal(prompt_figures.overlap(plan), expected)
    assert prompt_figures.between_prompts(expected).item() == pytest.approx(1 / 3)
    assert prompt_figures.between_prompts(torch.ones(2, 1, 1)).tolist() == [1, 1]
    of_two = np.log(2) / np.log(3)
    assert prompt_figures.entropy(plan).tolist() == pytest.approx([of_two, of_two, 0, 0])
    torch.testing.assert_close(prompt_figures.entropy(torch.ones(2, 4)), torch.ones(2))


def test_the_summary_is_over_images_and_their_predicted_classes():
    """Of the classes 1 and 0: prompts 1 and 2 share two patches and 3 has two others; all prompts share all evenly.

    Overlaps 1/3 and 1, entropies (log 2 / log 3 + 0) / 2 = 0.315 and 1; with the top-K mean all is shared evenly.
    """
    apart, even = torch.zeros(4, 3), torch.ones(4, 3)
    apart[:2, :2] = apart[2:, 2] = 1
    half = torch.zeros(4, 3)
    half[:2] = 1  # two patches are outside the support
    p = torch.tensor([[0.1, 0.9], [0.8, 0.2]])

    def seen(i, plans, own):
        pixels = torch.zeros(1, 3, 4, 4)
        return prompt_figures.Seen(pixels, p[i : i + 1], None, torch.stack(plans)[None], torch.stack(own)[None])

    parts = [seen(0, [half, apart], [half, even]), seen(1, [even, half], [even, half])]
    found = prompt_figures.divisions(parts)
    assert {name: division.text() for name, division in found.items()} == {
        "transport": "overlap 0.67 ± 0.47, entropy 0.66 ± 0.48",
        "top-K mean": "overlap 1.00 ± 0.00, entropy 1.00 ± 0.00",
    }
    (of_half,) = {d.text() for d in prompt_figures.divisions([seen(0, [even, half], [even, half])]).values()}
    assert of_half == "overlap 1.00, entropy 1.00"  # one image has no deviation


def test_patches_have_the_numbers_of_their_prompts():
    plan = plan_of()[1][0]
    axes = Figure().subplots()
    prompt_figures.draw_partition(axes, plan)
    prompt, side = plan.argmax(dim=1), int(P**0.5)
    places = {(text.get_position(), text.get_text()) for text in axes.texts}
    kept = plan.sum(dim=1).nonzero().flatten().tolist()
    assert places == {((i % side + 0.5, i // side + 0.38), str(prompt[i].item() + 1)) for i in kept}


def test_the_clearest_images_have_apart_prompts_and_a_support_in_the_box(monkeypatch):
    apart, mixed = torch.zeros(P, 2), torch.zeros(P, 2)
    apart[[0, 1], 0] = apart[[4, 5], 1] = 1  # the left upper quarter of 4 x 4 patches, divided into two rows
    mixed[[0, 1, 4, 5]] = 1  # the same patches, shared evenly
    away = apart.flip(0)  # the right lower quarter
    plans = {"mixed.png": mixed, "away.png": away, "apart.png": apart}

    def look(_, images):
        plan = torch.stack([list(plans.values())[int(i)] for i in images])
        predicted_first = torch.tensor([[0.9, 0.1]]).expand(len(images), 2)
        return prompt_figures.Seen(None, predicted_first, None, torch.stack([plan, mixed.expand_as(plan)], dim=1), None)

    class Predictor:
        preprocess = staticmethod(lambda path: torch.tensor(list(plans).index(path)))

    monkeypatch.setattr(prompt_figures, "look", look)
    assert prompt_figures.clearest(Predictor, list(plans), {}) == ["apart.png", "away.png", "mixed.png"]
    boxes = {Path(path).resolve(): (0, 0, 32, 32) for path in plans}  # the left upper quarter of 64 x 64 pixels
    assert prompt_figures.clearest(Predictor, list(plans), boxes) == ["apart.png", "mixed.png"]


def test_rows_are_predicted_true_and_runner_up_once_each():
    p = torch.tensor([0.1, 0.6, 0.3])
    assert prompt_figures.rows_of(p, None) == {1: "predicted", 2: "runner-up"}
    assert prompt_figures.rows_of(p, 1) == {1: "predicted and true", 2: "runner-up"}
    assert prompt_figures.rows_of(p, 0) == {1: "predicted", 0: "true", 2: "runner-up"}
    assert prompt_figures.rows_of(p, 2) == {1: "predicted", 2: "true and runner-up"}


def test_the_box_of_an_object_is_drawn(tmp_path):
    generator = torch.Generator().manual_seed(0)
    plan = torch.rand(1, 3, P, N, generator=generator)
    probabilities, cosines = torch.tensor([[0.5, 0.3, 0.2]]), torch.rand(1, P, 3, generator=generator)
    seen = prompt_figures.Seen(torch.zeros(1, 3, 64, 64), probabilities, cosines, plan, plan)
    pictures = []
    for box in (None, (16, 16, 48, 48)):
        prompt_figures.draw_image(seen, 0, None, ["a", "b", "c"], tmp_path / "figure.png", box)
        pictures.append(np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int))
    changed = np.abs(pictures[1] - pictures[0]).max(axis=2) > 40
    assert changed.any() and changed.mean() < 0.02  # lines


@pytest.mark.slow
def test_figures_of_a_run_and_mistakes(environment, tmp_path, monkeypatch, capsys):
    for name, value in {"DATA": str(tmp_path / "data"), "SEEDS": "1"}.items():
        monkeypatch.setenv(name, value)
    methods = read_methods()
    chosen = [methods["SOT-GLP, with projection"], methods["CoOp, shared context"]]
    ours, other = make_runs(chosen, ["fashion_mnist"], ["1"], ["OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val"])
    assert train.main(ours.arguments) == 0
    capsys.readouterr()
    out = tmp_path / "pictures"
    assert visualize.main([str(ours.folder), "--number", "2", "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    pictures = list(out.iterdir())
    assert len(pictures) == 3 and all(np.asarray(Image.open(path).convert("L")).std() > 10 for path in pictures)

    clear = tmp_path / "clear"
    assert visualize.main([str(ours.folder), "--clearest", "--number", "1", "--all", "--out", str(clear)]) == 0
    tested = len(FinishedRun(ours.folder).predictions())
    assert f"summary.png: all {tested} test images; with transport: overlap 0." in capsys.readouterr().out
    (path,) = (path for path in clear.iterdir() if path.name != "summary.png")
    rows = {Path(row["path"]).stem: row for row in FinishedRun(ours.folder).predictions()}
    assert rows[path.stem.removeprefix("01_")]["class"] == rows[path.stem.removeprefix("01_")]["predicted"]

    assert visualize.main([str(ours.folder), "nowhere.png"]) == 2
    assert "cannot read image nowhere.png" in capsys.readouterr().err

    # The report shows the hardest images as this run sees them, and alone when its weights are gone.
    folder, page = tmp_path / "fashion_mnist", tmp_path / "fashion_mnist" / "report.html"
    (weights,) = ours.folder.glob("*/model.pth.tar-1")
    whole = weights.read_bytes()
    wrong = sum(row["class"] != row["predicted"] for row in rows.values())
    for words in ("the local prompts of SOT-GLP, with projection, seed 1.", "Without overlays of local prompts: "):
        assert report.main([str(folder), "--quiet"]) == 0
        text = page.read_text()
        assert words in text and text.count(", taken for ") >= min(wrong, report_hardest.HARDEST) > 0
        weights.unlink(missing_ok=True)
    weights.write_bytes(whole)
    (ours.folder / "predictions.csv").unlink()
    assert visualize.main([str(ours.folder)]) == 2
    assert "give images" in capsys.readouterr().err

    other.folder.mkdir(parents=True)
    (other.folder / "config.yaml").write_text("TRAINER: {NAME: CoOp}")
    for arguments, message in (
        ([str(tmp_path)], "is no run"),
        ([str(other.folder)], "is a run of CoOp without local prompts"),
        ([str(ours.folder), "--number", "0"], "--number must be 1 or more"),
        ([str(ours.folder), "a.png", "--clearest"], "give no images with it"),
    ):
        assert visualize.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
