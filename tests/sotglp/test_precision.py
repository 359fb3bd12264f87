"""bfloat16, on the CPU."""

import pytest
import torch
from loops import TARGETS, build, weights  # noqa: F401 (fixtures)

from sotglp.precision import MixedPrecision
from sotglp.transport import stopped_plan, transport_plan, unbalanced_plan


@pytest.mark.parametrize("name", ["CoOp", "SOTGLP", "PLOT"])
def test_a_step_in_bfloat16_is_near_one_in_float32(name, build):  # noqa: F811
    summaries, gradients = [], []
    for precision in ("fp32", "bf16"):
        trainer, images = build(name, PREC=precision)
        trainer.batch_idx, trainer.num_batches = 0, 2
        torch.manual_seed(3)
        summaries.append(trainer.forward_backward({"img": images, "label": TARGETS, "domain": TARGETS}))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.learned.parameters()]))
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in trainer.model.learned.parameters())
    assert not trainer.scaler.is_enabled()
    with trainer.precision.autocast():
        match = trainer.model(images)
    assert match.g.dtype == torch.bfloat16
    assert summaries[1]["loss"] == pytest.approx(summaries[0]["loss"], rel=0.05)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize("plan", [transport_plan, stopped_plan, unbalanced_plan])
def test_transport_is_in_float32(plan):
    s = torch.rand(2, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    with MixedPrecision("bf16", "cpu").autocast():
        within = plan(s, eps=0.1)
    assert within.dtype == torch.float32 and torch.equal(within, plan(s.float(), eps=0.1))
