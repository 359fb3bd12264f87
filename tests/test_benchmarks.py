"""The kinds of training step that benchmarks.step compares."""

from unittest.mock import patch

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import BUDGET, KINDS, PLAIN
from sotglp import CLIP, draw_prompts, kernels, matching
from trainers.sotglp import SparseTransportCLIP, sotglp_loss

MORE = {"shared positions for each class", "padded to the longest name", PLAIN}  # operations
WHOLE = {"all similarities at once", PLAIN}


@pytest.fixture
def stop_patches():
    yield
    patch.stopall()


def loss_and_operations(kind):
    """Return a step's loss and its operations, on a small CLIP with names of unequal lengths."""
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, image_size=32, patch_size=8, vision_width=64, vision_layers=2)
    clip = CLIP(**sizes, text_width=64, text_layers=3).requires_grad_(False).eval()
    if KINDS[kind]:
        KINDS[kind]()
    if kind == BUDGET:
        clip.memory_budget = 0
    model = SparseTransportCLIP(clip, ["dog", "a very small red fox", "cat"])
    with FlopCounterMode(display=False) as counter:
        match, drawn = model(torch.randn(2, 3, 32, 32)), draw_prompts(2, 3, 0.75)
        loss = sum(sotglp_loss(match, torch.tensor([0, 2]), model.logit_scale, drawn).values())
    return loss.item(), counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_the_computation_and_not_the_loss(kind, stop_patches):
    ours, operations = loss_and_operations("sotglp")
    loss, more = loss_and_operations(kind)
    assert loss == pytest.approx(ours, rel=1e-4)
    assert more > operations if kind in MORE else more == operations
    # These need sizes that a test has no memory for, and a GPU.
    many = torch.ones(1).expand(2**13, 2**13, 16)
    assert len(matching.in_parts(torch.ones(3, 4, 16), many)) == (1 if kind in WHOLE else 3)
    if kind == "transport by PyTorch":
        assert not kernels.fits(torch.ones(10, 4, 3))
