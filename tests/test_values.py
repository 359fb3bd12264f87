"""Values that cannot be are told before anything is read; numbers that are not finite stop a run and cost nothing."""

import pytest
import torch
from test_resume import SOTGLP

import sotglp
from dassl.config.checks import RANGES, is_inside
from dassl.utils import load_checkpoint
from train import main

IMPOSSIBLE = {
    "OPTIM.LR": ("-0.1", "nan", "inf"),
    "OPTIM.MOMENTUM": ("1.5",),
    "OPTIM.MAX_EPOCH": ("0",),
    "DATALOADER.TRAIN_X.BATCH_SIZE": ("0", "-4"),
    "DATALOADER.NUM_WORKERS": ("-1",),
    "DATASET.NUM_SHOTS": ("0",),
    "INPUT.SIZE": ("(0, 8)", "(8,)"),
    "INPUT.RRCROP_SCALE": ("(0.5, 0.1)",),
    "INPUT.INTERPOLATION": ("cubic",),
    "TEST.SPLIT": ("train",),
    "TRAIN.PRINT_FREQ": ("0",),
    "TRAINER.SOTGLP.EPS": ("0.0", "-1.0", "nan"),
    "TRAINER.SOTGLP.N_LOCAL": ("-1",),
    "TRAINER.SOTGLP.PROMPT_DROPOUT": ("1.5",),
}


@pytest.mark.parametrize("key", IMPOSSIBLE)
def test_an_impossible_value_is_told_with_its_key(key, tmp_path, capsys):
    for value in IMPOSSIBLE[key]:
        assert main([*SOTGLP, "DATASET.ROOT", "nowhere", "OUTPUT_DIR", str(tmp_path / "run"), key, value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and key in line and value.strip("()").split(",")[0].rstrip("0.") in line
        assert not (tmp_path / "run").exists()  # nothing was begun


def test_intervals():
    assert all(is_inside(x, "[0, 1)") for x in (0, 0.5)) and not any(is_inside(x, "[0, 1)") for x in (-1e-9, 1))
    assert is_inside(1, "(0, 1]") and not is_inside(0, "(0, 1]") and is_inside(1e308, "[1, inf)")
    assert not any(is_inside(float("nan"), interval) for interval in RANGES.values())


def test_a_gradient_that_is_not_finite_stops_the_run_with_the_last_good_state(
    squares_root, tmp_path, capsys, monkeypatch
):
    arguments = [*SOTGLP, "DATALOADER.NUM_WORKERS", "0", "DATASET.ROOT", str(squares_root), "OUTPUT_DIR"]
    losses, steps = sotglp.sotglp_loss, []

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    for poison, message in {
        Poison.apply: "A gradient is infinite or NaN at epoch 1, batch 3",
        lambda x: x / 0: "Loss of local is infinite or NaN at epoch 1, batch 3",
    }.items():

        def poisoned(match, targets, scale, drawn, poison=poison):
            steps.append(1)
            loss_global, loss_local = losses(match, targets, scale, drawn)
            return loss_global, poison(loss_local) if len(steps) == 3 else loss_local

        steps.clear()
        monkeypatch.setattr(sotglp, "sotglp_loss", poisoned)
        run = tmp_path / message[:6]
        assert main([*arguments, str(run)]) == 2
        err = capsys.readouterr().err.splitlines()
        assert len(err) == 1 and message in err[0]
        checkpoint = load_checkpoint(str(run / "prompt_learner" / "model.pth.tar-0-2"))
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
