"""Optimizers, learning rates and the accuracy of the k best."""

import io

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default, merge_pairs
from dassl.metrics import compute_accuracy
from dassl.optim import RAdam, build_lr_scheduler, build_optimizer


def optim_cfg(**values):
    cfg = get_cfg_default()
    values = {"NAME": "sgd", "LR": 0.002, "MAX_EPOCH": 10, "LR_SCHEDULER": "cosine", **values}
    merge_pairs(cfg, {f"OPTIM.{key}": value for key, value in values.items()})
    return cfg.OPTIM


def make(cfg):
    optim = build_optimizer([nn.Parameter(torch.zeros(1))], cfg)
    return optim, build_lr_scheduler(optim, cfg)


def learning_rates(cfg, epochs):
    optim, sched = make(cfg)
    rates = []
    for _ in range(epochs):
        rates.append(optim.param_groups[0]["lr"])
        optim.step()
        sched.step()
    return rates


COSINE = [2e-3, 1.9511e-3, 1.8090e-3, 1.5878e-3, 1.3090e-3, 1e-3, 6.9098e-4, 4.1221e-4, 1.9098e-4]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"}, [1e-5, *COSINE]),
        ({"WARMUP_EPOCH": 3}, [1e-5, 6.6667e-4, 1.3333e-3, 2e-3, 1.9511e-3]),
        (
            {"WARMUP_EPOCH": 3, "WARMUP_TYPE": "constant", "WARMUP_RECOUNT": False},
            [1e-5, 1e-5, 1e-5, 2e-3, 1.6489e-3, 1.2596e-3, 8.7037e-4, 5.1923e-4, 2.4057e-4, 6.165e-5],
        ),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (2,)}, [2e-3, 2e-3, 2e-4, 2e-4, 2e-5]),
        (
            {"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 4), "WARMUP_EPOCH": 2},
            [1e-5, 1e-3, 2e-3, 2e-3, 2e-4, 2e-4],
        ),
        ({}, COSINE),
        ({"LR_SCHEDULER": "single_step"}, [2e-3] * 10 + [2e-4]),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": (4, 2)}, [2e-3, 2e-3, 2e-4, 2e-4, 2e-5]),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": ()}, [2e-3] * 3),
        ({"WARMUP_EPOCH": 2, "WARMUP_RECOUNT": False, "MAX_EPOCH": 2}, [1e-5, 1e-3]),
        ({"MAX_EPOCH": 0}, [2e-3]),
    ],
)
def test_golden_learning_rates(values, expected):
    assert learning_rates(optim_cfg(**values), len(expected)) == pytest.approx(expected, rel=1e-4)


def test_cosine_is_torchs():
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.002)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 10)
    expected = []
    for _ in range(10):
        expected.append(optim.param_groups[0]["lr"])
        optim.step()
        reference.step()
    assert learning_rates(optim_cfg(), 10) == pytest.approx(expected)


def test_schedule_state_is_plain_and_drives_the_live_optimizer():
    cfg = optim_cfg(WARMUP_EPOCH=2)
    optim, sched = make(cfg)
    for _ in range(4):
        optim.step()
        sched.step()
    buffer = io.BytesIO()
    torch.save({"optimizer": optim.state_dict(), "scheduler": sched.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)

    other, other_sched = make(cfg)
    other.load_state_dict(state["optimizer"])
    other_sched.load_state_dict(state["scheduler"])
    for _ in range(4):
        assert other.param_groups[0]["lr"] == optim.param_groups[0]["lr"]
        for o, s in ((optim, sched), (other, other_sched)):
            o.step()
            s.step()
    assert other.param_groups[0]["lr"] < 0.001


def test_bad_schedules_are_refused():
    for values in (
        {"LR_SCHEDULER": "cosin"},
        {"WARMUP_EPOCH": 1, "WARMUP_TYPE": "lin"},
    ):
        with pytest.raises(ValueError, match="cosine|linear"):
            make(optim_cfg(**values))


@pytest.mark.parametrize(
    ("name", "cls", "options"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.9, "eps": 1e-3}),
        ("adam", torch.optim.Adam, {"betas": (0.7, 0.9), "eps": 1e-3, "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.7, 0.9), "eps": 1e-3, "amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.7, 0.9), "eps": 1e-3}),
        ("radam", RAdam, {"betas": (0.7, 0.9), "eps": 1e-3, "decoupled_weight_decay": True}),
    ],
)
def test_optimizers(name, cls, options):
    cfg = optim_cfg(
        NAME=name, MOMENTUM=0.8, SGD_NESTEROV=True, RMSPROP_ALPHA=0.9, ADAM_BETA1=0.7, ADAM_BETA2=0.9, EPS=1e-3
    )
    optim = build_optimizer(nn.Linear(2, 1), cfg)
    assert type(optim) is cls
    group = optim.param_groups[0]
    assert len(group["params"]) == 2
    assert {key: group[key] for key in ("lr", "weight_decay", *options)} == {
        "lr": 0.002,
        "weight_decay": 5e-4,
        **options,
    }


def test_optimizer_parameters_and_staged_learning_rates():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    staged = optim_cfg(STAGED_LR=True, NEW_LAYERS=("head",))
    base, new = build_optimizer(model, staged).param_groups
    assert base["lr"] == pytest.approx(0.0002) and new["lr"] == 0.002
    assert base["params"] == list(model["body"].parameters())
    assert new["params"] == list(model["head"].parameters())
    with pytest.raises(TypeError):
        build_optimizer(model.parameters(), staged)
    groups = [{"params": [model["head"].bias], "lr": 0.5}]
    with pytest.warns(UserWarning, match="ignored"):
        assert build_optimizer(model, staged, groups).param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match='unknown optimizer.*"sdg".*sgd'):
        build_optimizer(model, optim_cfg(NAME="sdg"))


def test_accuracy_of_the_k_best():
    output = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    target = torch.tensor([1, 1, 0, 2])
    top1, top2, top3 = compute_accuracy((output,), target, topk=(1, 2, 3))
    assert (top1.item(), top2.item(), top3.item()) == (25.0, 50.0, 100.0)
    assert compute_accuracy(output, target)[0].shape == (1,)
