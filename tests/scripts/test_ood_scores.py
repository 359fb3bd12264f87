"""Out-of-distribution detection: the metrics by hand, the scores, and the protocol on finished runs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import train
from dassl.engine import build_trainer
from dassl.finished import FinishedRun
from dassl.metrics import auroc, fpr_at_95
from scripts import ood, ood_evaluation
from sotglp import Match, energy, max_logit, negatives, ood_scores
from sotglp.prompted import Similarities

COMMON = [
    *("--dataset-config-file", "configs/datasets/fashion_mnist.yaml", "--config-file", "configs/backbones/small.yaml"),
    *("--seed", "1"),
]
QUICK = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "10", "TEST.SPLIT", "val"]
OF_IMAGE, OF_PATCHES = {"MCM", "MaxLogit", "Energy"}, {"L-MCM", "GL-MCM"}
AGAINST, OF_PLANS = {"NegLabel", "P-NegLabel", "L-NegLabel"}, {"PlanLogit", "PlanEntropy", "OffSupport"}


def count_pairs(inside, outside):
    pairs = [(a < b) + (a == b) / 2 for a in inside for b in outside]
    return 100 * sum(pairs) / len(pairs)


def test_auroc_counts_ties_by_half():
    assert auroc([1, 2, 2], [2, 3]) == pytest.approx(100 * 5 / 6)  # 2 beats 1 and ties twice, 3 beats three
    assert auroc([1, 2], [3, 4]) == 100 and auroc([3, 4], [1, 2]) == 0 and auroc([7, 7], [7]) == 50
    generator = np.random.default_rng(0)
    for _ in range(20):
        inside, outside = (generator.integers(0, 6, generator.integers(1, 30)) for _ in range(2))
        assert auroc(inside, outside) == pytest.approx(count_pairs(inside, outside))


def test_fpr_counts_outside_images_at_or_below_the_threshold():
    inside = list(range(20))[::-1]  # 19 of 20 are at or below 18
    assert fpr_at_95(inside, [-1, 18, 18.5, 19]) == 50
    assert fpr_at_95(range(10), [9, 9.5]) == 50  # 9 of 10 are not enough: all are kept
    assert fpr_at_95(range(100), [94, 94, 95]) == pytest.approx(200 / 3)
    assert fpr_at_95([0] * 18 + [5, 5], [5, 5, 6, 4]) == 75  # a tie at the threshold keeps both
    assert fpr_at_95([0] * 19 + [5], [0, 1]) == 50


def test_fpr_keeps_95_percent_and_not_one_image_more():
    for n in range(1, 201):
        kept = [k for k in range(n) if fpr_at_95(range(n), [k]) == 100]
        assert len(kept) * 100 >= 95 * n > (len(kept) - 1) * 100


def test_metrics_know_the_direction_and_only_the_order():
    generator = np.random.default_rng(1)
    inside, outside = generator.integers(0, 9, 40) / 4, generator.integers(3, 12, 30) / 4
    assert auroc(inside, outside) + auroc(outside, inside) == pytest.approx(100)
    assert auroc(inside, outside) > 60 and auroc(-inside, -outside) < 40
    assert fpr_at_95(inside, outside) < fpr_at_95(outside, inside)
    for metric in (auroc, fpr_at_95):
        assert metric(np.exp(inside), np.exp(outside)) == metric(inside, outside)
        assert metric(torch.tensor(inside), torch.tensor(outside)) == metric(inside, outside)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_metrics_refuse_what_is_no_list_of_scores(scores):
    for metric in (auroc, fpr_at_95):
        with pytest.raises(ValueError, match="OOD scores must be"):
            metric([1.0, 2.0], scores)


def test_logit_scores_by_hand():
    g = torch.tensor([[[0.4, 0.6], [0.1, 0.1]], [[0.2, 0.0], [0.3, 0.3]]])  # B 2, C 2, M 2
    match = Similarities(g, None)
    torch.testing.assert_close(max_logit(match, 10), torch.tensor([-5.0, -3.0]))
    expected = [-math.log(math.exp(5) + math.exp(1)), -math.log(math.exp(1) + math.exp(3))]
    torch.testing.assert_close(energy(match, 10), torch.tensor(expected))
    # Half-precision cosines are scored in full precision: images that differ keep different scores.
    for score in ood_scores(Similarities(g.half(), g.half()[:, None, :, 0]), 10).values():
        assert score.dtype == torch.float32 and score[0] != score[1]


def test_only_the_scores_of_the_branches_there_are():
    g, s = torch.rand(2, 3, 1), torch.rand(2, 5, 3)
    names = {
        branches: set(ood_scores(Match(*branch, None, None, None), 10))
        for branches, branch in {"g": (g, None), "s": (None, s), "gs": (g, s)}.items()
    }
    assert names == {"g": OF_IMAGE, "s": {"L-MCM"}, "gs": OF_IMAGE | OF_PATCHES}


@pytest.mark.parametrize("own", [False, True])  # a support of each prompt
def test_scores_of_plans_by_hand(own):
    generator = torch.Generator().manual_seed(0)
    s, l = torch.rand(3, 6, 2, generator=generator), torch.tensor([[0.1, 0.2], [0.4, 0.3], [0.5, 0.6]])  # noqa: E741
    plan = torch.rand(3, 2, 4, 2, generator=generator)
    plan[0, 1, 2] = 0  # where a plan has nothing, its entropy has nothing
    support = torch.rand(3, 2, 6, 2, generator=generator).argsort(dim=2)[:, :, :4]
    found = ood_scores(Match(None, s, support if own else support[..., 0], plan, l), 10)
    assert set(found) == {"L-MCM", *OF_PLANS}
    for i, best in enumerate((1, 0, 1)):
        assert found["PlanLogit"][i] == -l[i, best]
        entropy = -sum(float(share) * math.log(share) for share in plan[i, best].flatten() if share > 0)
        assert found["PlanEntropy"][i].item() == pytest.approx(entropy, rel=1e-5)
        kept = set(support[i, best].flatten().tolist() if own else support[i, best, :, 0].tolist())
        mass = [math.exp(10 * float(s[i, patch, best])) for patch in range(6)]
        outside = sum(mass[patch] for patch in range(6) if patch not in kept) / sum(mass)
        assert found["OffSupport"][i].item() == pytest.approx(outside, rel=1e-5)
    whole = Match(None, s, None, plan, l)  # PLOT's plan is of all patches
    assert set(ood_scores(whole, 10)) == {"L-MCM", "PlanLogit", "PlanEntropy"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Folder with a one-epoch run of SOTGLP and one of CoOp, which has no weights but the best on validation."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("SOTGLP", "CoOp"):
        common = ["--trainer", name, "--root", str(root), "--output-dir", str(folder / name), *COMMON, *QUICK]
        assert train.main([*common, "TEST.FINAL_MODEL", "best_val" if name == "CoOp" else "last_step"]) == 0
    (folder / "CoOp" / "prompt_learner" / "model.pth.tar-1").unlink()
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Folder of six pictures of noise, two of which are one level deeper."""
    folder, generator = tmp_path_factory.mktemp("others") / "noise", np.random.default_rng(0)
    (folder / "deeper").mkdir(parents=True)
    for number in range(6):
        pixels = generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deeper" if number < 2 else "") / f"{number}.png")
    return folder


@torch.no_grad()
def logits(trainer, paths):
    """What a trainer predicts pictures from, one by one."""
    text, transform = trainer.model.encode_text(), trainer.test_loader.dataset.transform
    images = [transform(Image.open(path).convert("RGB"))[None].to(trainer.device) for path in paths]
    return torch.cat([trainer.scores(trainer.model(image, text)) for image in images])


def check_max_logit(trainer, result, paths):
    """The MaxLogit of a result is that of the trainer's own predictions, by counting pairs."""
    inside, outside = (
        (-logits(trainer, chosen).amax(dim=1)).tolist()
        for chosen in ([item.impath for item in trainer.dm.dataset.val], paths)
    )
    assert result["MaxLogit"]["AUROC"] == pytest.approx(count_pairs(inside, outside), abs=1)  # rounding may tie


def test_the_embedded_pictures_are_the_default(runs, capsys):
    assert ood.main([str(runs / "SOTGLP")]) == 0
    results = json.loads((runs / "SOTGLP" / "ood.json").read_text())
    kinds = {"clock", "flag", "geometric shape", "keycap", "letter", "sign", "texture", "zodiac sign"}
    assert set(results["sets"]) == kinds and set(results["images"]) == {"in-distribution", *kinds}
    assert results["images"]["in-distribution"] == 10 and results["split"] == "val"
    assert results["temperature"] == 1 and results["patches"] == "vv"
    assert list(results["average"]) == list(ood.SCORES)
    for score, metrics in results["average"].items():
        for metric, average in metrics.items():
            values = [by_score[score][metric] for by_score in results["sets"].values()]
            assert average == pytest.approx(np.mean(values)) and 0 <= min(values) <= max(values) <= 100
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in kinds) and f"{results['average']['GL-MCM']['FPR95']:.2f}" in printed


def test_a_folder_is_a_set_and_the_best_weights_are_scored(runs, noise):
    run = runs / "CoOp"
    assert ood.main([str(run), "--sets", str(noise), "--temperature", "0.01"]) == 0
    results = json.loads((run / "ood.json").read_text())
    assert results["images"] == {"in-distribution": 10, "noise": 6} and results["temperature"] == 0.01
    assert results["patches"] == "value" and set(results["sets"]["noise"]) == OF_IMAGE | OF_PATCHES | AGAINST
    trainer = FinishedRun(run).trainer()
    check_max_logit(trainer, results["sets"]["noise"], noise.rglob("*.png"))


@pytest.mark.parametrize("name", ["CoOp", "SOTGLP"])
@torch.no_grad()
def test_words_are_read_in_the_prompts_of_images(runs, name):
    """As if they were the method's classes."""
    trainer = FinishedRun(runs / name).trainer()
    trainer.text = trainer.model.encode_text()
    words, frozen = trainer.negatives
    model = trainer.make_model(trainer.model.clip, words)
    learned = {key: value for key, value in trainer.model.learned.state_dict().items() if "local" not in key}
    model.learned.load_state_dict(learned, strict=False)
    text = model.encode_text()
    text = (text if name == "CoOp" else text[0]).mean(dim=1)
    torch.testing.assert_close(trainer.prompted_negatives.flatten(0, 1), text, atol=1e-5, rtol=0)
    assert trainer.prompted_negatives is trainer.prompted_negatives
    next(trainer.model.learned.parameters()).normal_()
    trainer.text = trainer.model.encode_text()
    assert not torch.allclose(trainer.prompted_negatives.flatten(0, 1), text, atol=1e-3)
    trainer.model.clip.text_projection.mul_(-1)  # as a method that tunes its tower
    negatives.negatives_of.cache_clear()
    torch.testing.assert_close(trainer.negatives.text, frozen)


def test_near_sets_and_the_full_spectrum_stand_apart(monkeypatch):
    values = {
        "in-distribution": [0.0, 1.0, 2.0],
        "covariate-shifted": [3.0],
        **{"Textures": [1.0, 4.0], "mine": [5.0], "SSB-hard": [0.5], "NINCO": [2.5, 2.5]},
    }
    monkeypatch.setattr(ood_evaluation, "score_images", lambda *words: {"MCM": np.array(values[words[-1]])})
    cfg = {"DATASET": SimpleNamespace(NAME="ImageNet", NUM_SHOTS=1), "TRAINER": SimpleNamespace(NAME="CoOp")}
    cfg = SimpleNamespace(**cfg, MODEL=SimpleNamespace(BACKBONE=SimpleNamespace(NAME="small")), SEED=1)
    model = SimpleNamespace(local=None, encode_text=lambda: None)
    names = ("split_to_evaluate", "batches_to_evaluate", "encoded", "loader_of")
    trainer = SimpleNamespace(cfg=cfg, model=model, **{name: lambda *words: None for name in names})
    sets = dict.fromkeys(["Textures", "SSB-hard", "mine", "NINCO"])
    results = ood_evaluation.evaluate(trainer, sets, shifted=["an image"])
    inside, full = values["in-distribution"], values["in-distribution"] + values["covariate-shifted"]
    for separated, within in ((results, inside), (results["full spectrum"], full)):
        expected = {name: count_pairs(within, values[name]) for name in sets}
        assert {name: separated["sets"][name]["MCM"]["AUROC"] for name in sets} == pytest.approx(expected)
        for place, of in (("average", ("Textures", "mine")), ("near", ("SSB-hard", "NINCO"))):
            mean = sum(expected[name] for name in of) / 2
            assert separated[place]["MCM"]["AUROC"] == pytest.approx(mean)
    assert results["images"] == {name: len(scores) for name, scores in values.items()}
    tables = [table.splitlines() for table in ood.table(results).split("\n\n")]
    rows = {lines[0].split("  ")[0]: [line.split()[0] for line in lines[2:]] for lines in tables}
    far, near = ["Textures", "mine", "average"], ["SSB-hard", "NINCO", "average"]
    assert rows == {
        f"{metric}{kind}{spectrum}": names
        for spectrum in ("", ", full spectrum")
        for kind, names in (("", far), (", near", near))
        for metric in ("AUROC", "FPR95")
    }
    only_near = ood_evaluation.separated({"MCM": np.array(inside)}, {"NINCO": {"MCM": np.array([2.5])}})
    assert only_near["average"] == only_near["near"]


def test_a_run_is_loaded_with_the_images_it_drew(runs):
    run, draws = runs / "SOTGLP", []
    for seed in (5, 6):
        torch.manual_seed(seed)
        dataset = FinishedRun(run).trainer().dm.dataset
        draws.append([item.impath for item in dataset.train_x + dataset.val])
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "trainer, options, scores",
    [
        ("KgCoOp", [], OF_IMAGE | OF_PATCHES | AGAINST),  # without its hand-written anchor
        ("CoCoOp", [], OF_IMAGE | {"NegLabel"}),  # its prompts depend on the image
        ("SOTGLP", ["TRAINER.SOTGLP.N_LOCAL", "0"], OF_IMAGE | {"NegLabel", "P-NegLabel"}),
        ("SOTGLP", ["TRAINER.SOTGLP.N_GLOBAL", "0"], {"L-MCM", "L-NegLabel"} | OF_PLANS),
    ],
)
def test_a_method_has_the_scores_of_what_it_reads(root, tmp_path, trainer, options, scores):
    arguments = ["--trainer", trainer, "--root", str(root), "--output-dir", str(tmp_path), *COMMON, *QUICK, *options]
    torch.manual_seed(0)
    trainer = build_trainer(train.setup_cfg(train.parse_args(arguments)))
    trainer.set_model_mode("eval")
    if trainer.cfg.TRAINER.NAME == "KgCoOp":
        torch.nn.init.normal_(trainer.model.learned.context)  # far from the anchor
    items = trainer.dm.dataset.test[::50]  # hard to separate: their AUROC is no round number
    results = ood_evaluation.evaluate(trainer, {"others": items})
    assert set(results["sets"]["others"]) == set(results["average"]) == scores
    assert (results["patches"] is None) == ("L-MCM" not in scores)
    if trainer.cfg.TRAINER.NAME == "KgCoOp":
        check_max_logit(trainer, results["sets"]["others"], [item.impath for item in items])
    lines = ood.table(results).splitlines()
    averages = [cell for line in lines if line.startswith("average") for cell in line.split()[1:]]
    assert len(averages) == 2 * len(scores) and max(map(len, lines)) <= 100  # the others are empty


@pytest.mark.parametrize(
    "changes, arguments, message",
    [
        ({}, ["--temperature", "0"], "--temperature must be a positive number"),
        ({}, ["--temperature", "warm"], "invalid float value"),
        ({}, ["--sets", "nowhere"], "iNaturalist, SUN, Places, Textures"),
        ({}, ["--sets", "Emoji", "Emoji"], "two OOD sets are called clock"),
        (
            {"NAME: FashionMNIST": "NAME: ImageFolder"},
            [],
            "ImageFolder has no OOD sets of its own: give some with --sets",
        ),
        ({"NAME: FashionMNIST": "NAME: ImageNet"}, [], "iNaturalist"),
        ({"NAME: SOTGLP": "NAME: Tiny"}, [], "is a run of Tiny: give one of "),
        ({}, ["--sets", "Emoji"], "no checkpoint at"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, capsys, changes, arguments, message):
    config = (runs / "SOTGLP" / "config.yaml").read_text()
    for old, new in changes.items():
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "config.yaml").write_text(config)
    assert ood.main([str(tmp_path), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_what_is_no_run_or_no_image_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "broken.png").write_text("no image")
    for arguments, message in (
        ([str(tmp_path)], "is no run"),
        ([str(runs / "SOTGLP"), "--sets", str(tmp_path)], "cannot read image"),
    ):
        assert ood.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not Path(tmp_path, "ood.json").exists()


def test_a_histogram_of_scores_that_are_almost_one():
    inside, outside = np.float32([1, 1, np.nextafter(np.float32(1), np.float32(2))]), np.float32([1])
    counts = ood_evaluation.histogram(inside, outside)
    assert sum(counts["in"]) == 3 and sum(counts["out"]) == 1 and counts["in"][0] == 2 and counts["in"][-1] == 1
