"""What SOT-GLP is without each of its parts, against slow references."""

from pathlib import Path

import numpy as np
import ot
import pytest
import torch

import train
from dassl.config import flatten
from scripts.methods import read_methods
from scripts.run import make_runs
from sotglp import draw_prompts
from sotglp.clip import CLIP
from sotglp.matching import on_support, own_support, similarities
from sotglp.transport import unbalanced_plan, uniform_plan
from trainers.sotglp import build, predict, sotglp_loss

NAMES = ["cat", "great white shark", "ankle boot"]
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def clip():
    torch.manual_seed(0)
    sizes = dict(embed_dim=32, image_size=32, patch_size=8, vision_width=64, vision_layers=2)
    return CLIP(**sizes, text_width=64, text_layers=2)


def run(clip, **options):
    """A model of SOT-GLP and what it makes of three images."""
    torch.manual_seed(1)
    model = build(clip, NAMES, **{"n_local": 2, "topk": 5, **options})
    with torch.no_grad():
        return model, model(IMAGES)


@torch.no_grad()
def all_similarities(model):
    """S (B, P, C, N) of the three images."""
    _, tokens = model.features(IMAGES)
    return similarities(model.to_joint(tokens, model.projection), model.encode_text()[1])


@pytest.mark.parametrize("eps, relaxation", [(0.1, 1.0), (0.05, 0.2), (0.5, 5.0)])
def test_unbalanced_plan_is_pots(eps, relaxation):
    s = torch.rand(4, 6, 3) * 2 - 1
    plans = unbalanced_plan(s, eps, relaxation)
    a, b = np.full(6, 1 / 6), np.full(3, 1 / 3)
    for problem, plan in zip(s.double().numpy(), plans, strict=True):
        solve = ot.unbalanced.sinkhorn_stabilized_unbalanced
        expected = solve(a, b, 1 - problem, eps, relaxation, reg_type="kl", numItermax=20_000, stopThr=1e-14)
        np.testing.assert_allclose(plan.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_unbalanced_plan_nears_the_balanced_one_as_marginals_are_enforced():
    plan = unbalanced_plan(torch.rand(5, 6, 3), relaxation=1e4)
    torch.testing.assert_close(plan.sum(dim=-1), torch.full((5, 6), 1 / 6), rtol=1e-3, atol=0)
    torch.testing.assert_close(plan.sum(dim=-2), torch.full((5, 3), 1 / 3), rtol=1e-3, atol=0)


def test_mean_instead_of_transport(clip):
    model, match = run(clip, plan="mean")
    s = all_similarities(model)
    for b in range(3):
        for c in range(3):
            kept = [[s[b, p, c, n].item() for n in range(2)] for p in match.support[b, c]]
            mean = sum(map(sum, kept)) / (5 * 2)
            assert match.l[b, c].item() == pytest.approx(mean / 2, abs=1e-6)  # divided by N as with transport
    assert uniform_plan(torch.rand(2, 5, 3)).sum(dim=(-2, -1)).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("plan", ["balanced", "unbalanced"])
def test_all_patches(clip, plan):
    model, match = run(clip, topk=0, plan=plan, eps=0.2)
    all_s = all_similarities(model)
    assert match.support.shape == (3, 3, 16)
    for b in range(3):
        for c in range(3):
            s = all_s[b, :, c].double().numpy()
            marginals = np.full(16, 1 / 16), np.full(2, 1 / 2)
            if plan == "balanced":
                slow = ot.sinkhorn(*marginals, 1 - s, 0.2, method="sinkhorn_log", stopThr=1e-12)
            else:
                solve = ot.unbalanced.sinkhorn_stabilized_unbalanced
                slow = solve(*marginals, 1 - s, 0.2, 1.0, reg_type="kl", numItermax=20_000, stopThr=1e-14)
            assert match.l[b, c].item() == pytest.approx((slow * s).sum() / 2, rel=1e-4, abs=1e-6)


def test_each_prompt_chooses_its_own_patches(clip):
    _, match = run(clip, support="own")
    assert match.support.shape == (3, 3, 5, 2)
    patches, text = torch.randn(2, 7, 8), torch.randn(3, 4, 8)
    s, kept = similarities(patches, text), on_support(patches, text, own_support(patches, text, 3))
    for b in range(2):
        for c in range(3):
            for n in range(4):
                assert kept[b, c, :, n].tolist() == pytest.approx(sorted(s[b, :, c, n].tolist())[:-4:-1])


@pytest.mark.parametrize("left_out, left", [("n_global", "local"), ("n_local", "global")])
def test_a_branch_alone_is_the_prediction_and_the_loss(clip, left_out, left):
    _, whole = run(clip)
    model, match = run(clip, **{left_out: 0})
    prediction = predict(match, 20.0)
    assert set(prediction) == {"combined", left} and torch.equal(prediction["combined"], prediction[left])
    assert (match.g is None, match.l is None) == (left == "local", left == "global")
    losses = sotglp_loss(match, torch.tensor([0, 1, 2]), 20.0, draw_prompts(3, 3 * (left != "local"), 0.75))
    assert set(losses) == {left}
    if left == "global":
        torch.testing.assert_close(match.g, whole.g)
        assert set(model.learned) == {"global_prompts"}
    else:
        assert set(model.learned) == {"local_prompts", "projection"}


def test_the_stream_of_the_patches_is_chosen(clip):
    matches = {stream: run(clip, local=stream)[1] for stream in ("vv", "last", "value")}
    assert len({match.s.sum().item() for match in matches.values()}) == 3
    torch.testing.assert_close(matches["vv"].g, matches["last"].g)
    with pytest.raises(ValueError, match="stream vv, last, value, or None, not 'first'"):
        clip.visual(torch.zeros(1, 3, 32, 32), local="first")


@pytest.mark.parametrize(
    "option, message",
    [({"plan": "none"}, "balanced, unbalanced, mean"), ({"support": "all"}, "own"), ({"local": "first"}, "vv, last")],
)
def test_unknown_parts_are_refused(clip, option, message):
    with pytest.raises(ValueError, match=message):
        run(clip, **option)


def test_each_row_of_the_ablation_differs_by_its_named_switch_alone():
    methods = read_methods(Path("configs/comparisons/ablation.yaml"))
    runs = make_runs(list(methods.values()), ["fashion_mnist"], [16], seeds=[1])
    base, *rows = ({**flatten(train.setup_cfg(train.parse_args(run.arguments))), "OUTPUT_DIR": ""} for run in runs)
    assert len({run.folder for run in runs}) == len(runs) > 15
    for row, run in zip(rows, runs[1:], strict=True):
        changed = {key: row[key] for key in base if row[key] != base[key]}
        key, value = run.method.options
        assert {name: str(value) for name, value in changed.items()} == {key: value}, run.method.name
