"""On a GPU: the same numbers as on the CPU, runs that repeat, and training from the script to its table."""

import json

import pytest
import torch

import train
from sotglp import draw_prompts, kernels, transport, transport_plan
from sotglp.clip import CLIP
from trainers.sotglp import SparseTransportCLIP, sotglp_loss

pytestmark = pytest.mark.usefixtures("gpu")
NAMES = ["cat", "great white shark", "ankle boot", " ".join(["dog"] * 60)]


@pytest.mark.parametrize("shape", [(50, 20, 10, 4), (3, 1, 1), (3, 5), (7, 1), (3, 64, 8), (2, 196, 4), (2, 196, 64)])
@pytest.mark.parametrize("eps", [0.01, 0.1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_finds_the_plans_of_the_cpu(shape, eps, dtype):
    s = (0.25 + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    plan = transport_plan(s.cuda(), eps)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.cpu(), transport_plan(s, eps), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan.sum(dim=-2), torch.full_like(plan[..., 0, :], 1 / shape[-1]), rtol=0, atol=1e-5)


def test_the_kernel_solves_each_problem_until_it_is_solved():
    s = torch.cat([torch.zeros(300, 10, 4), torch.randn(1, 10, 4)]).cuda()
    s[7, 0, 0] = torch.nan
    plan, kept = transport_plan(s, 0.02), [i for i in range(301) if i != 7]
    torch.testing.assert_close(plan[kept].sum(dim=-2), torch.full((300, 4), 0.25, device="cuda"), rtol=0, atol=1e-5)
    assert plan[7].isnan().any()


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = dict(embed_dim=32, image_size=32, patch_size=8, vision_width=64, vision_layers=2)
    return SparseTransportCLIP(CLIP(**sizes, text_width=64, text_layers=3), NAMES, n_local=3, topk=5)


def step(model, images, drawn, device, half):
    """The branches' losses and the gradients of a step."""
    model.to(device).zero_grad()
    with torch.autocast("cuda", torch.float16, enabled=half):
        match = model(images.to(device))
        terms = sotglp_loss(match, torch.arange(4, device=device), model.logit_scale, drawn.to(device))
    losses = list(terms.values())
    sum(losses).backward()
    return [t.detach().cpu().float() for t in (*losses, *(p.grad for p in model.learned.parameters()))]


def test_a_step_is_that_of_the_cpu(model, monkeypatch):
    """To rounding in float32, with parts too; in half precision, where supports may differ, the losses nearly."""
    images, drawn, fits = torch.randn(4, 3, 32, 32), draw_prompts(4, 3, 0), kernels.fits
    expected = step(model, images, drawn, "cpu", half=False)
    for budget, kernel, half in [(torch.inf, True, False), (0, False, False), (torch.inf, True, True)]:
        monkeypatch.setattr(model.clip, "memory_budget", budget)
        monkeypatch.setattr(kernels, "fits", fits if kernel else lambda log_plan: False)
        ours, compared = step(model, images, drawn, "cuda", half), slice(2 if half else None)
        for one, other in zip(ours[compared], expected[compared], strict=True):
            tolerance = (0.02 if half else 1e-4) * other.abs().max().item()
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_pytorch_solves_what_does_not_fit_the_kernel():
    assert not kernels.fits(torch.empty(196, 64, 2, device="cuda"))
    log_plan = transport.scale_rows(torch.randn(5, 3, 40, device="cuda"))
    ours = log_plan.clone()
    transport.solve(log_plan, 1e-6, 10_000)
    kernels.solve(ours, 1e-6, 10_000)
    torch.testing.assert_close(ours.exp(), log_plan.exp(), rtol=1e-4, atol=1e-7)


def run(folder, *options, flags=()):
    """Metrics and device of a run of train.py in mixed precision."""
    recipe = ["configs/trainers/SOTGLP/small.yaml"]
    configs = [word for file in ("configs/backbones/small.yaml", *recipe) for word in ("--config-file", file)]
    dataset = ["--dataset-config-file", "configs/datasets/fashion_mnist.yaml", "--root", "data", "--seed", "1"]
    values = ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "8", "INPUT.FEATURE_CACHE", str(folder.parent / "features")]
    arguments = ["--trainer", "SOTGLP", *configs, *dataset, "--output-dir", str(folder), *flags, *values, *options]
    assert not train.main(arguments)
    results = json.loads((folder / "results.json").read_text())
    return results["metrics"], results["device"]


@pytest.mark.slow
def test_training_repeats_and_the_cpu_tests_it_alike(tmp_path):
    metrics, device = run(tmp_path / "first")
    assert device == torch.cuda.get_device_name()
    assert run(tmp_path / "second") == (metrics, device)
    path = "prompt_learner/model.pth.tar-8"
    first, second = (torch.load(tmp_path / name / path)["state_dict"] for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    flags = ["--eval-only", "--model-dir", str(tmp_path / "first"), "--load-epoch", "8"]
    on_cpu, device = run(tmp_path / "cpu", "USE_CUDA", "False", flags=flags)
    assert device == "cpu"
    assert on_cpu["accuracy"] == pytest.approx(metrics["accuracy"], abs=1)
