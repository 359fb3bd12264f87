"""The trainer's loop: resuming, checkpoints, models, and errors in training."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import Tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from dassl.engine import TrainerBase, TrainerX, build_trainer
from dassl.utils import UserError, load_checkpoint, save_checkpoint, set_random_seed

FEATURES = {"TRAIN.CHECKPOINT_FREQ": 1}


def weights(trainer):
    return trainer.model[-1].weight.detach()


def break_off_after(trainer, epochs):
    """Train and interrupt before the epoch after `epochs`."""

    def before_epoch():
        if trainer.epoch == epochs:
            raise KeyboardInterrupt

    trainer.before_epoch = before_epoch
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


@pytest.mark.parametrize("final_model", ["last_step", "best_val"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_resumed_run_equals_unbroken_one(make_cfg, tmp_path, final_model, epochs):
    values = {**FEATURES, "TEST.FINAL_MODEL": final_model, "OPTIM.LR_SCHEDULER": "cosine"}
    whole = build_trainer(make_cfg({**values, "OUTPUT_DIR": str(tmp_path / "whole")}))
    whole.train()

    cfg = make_cfg(values)
    break_off_after(build_trainer(cfg), epochs)
    set_random_seed(99)
    resumed = build_trainer(cfg)
    assert not torch.equal(weights(resumed), weights(whole))
    resumed.train()
    assert resumed.start_epoch == epochs
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.evaluator.results == whole.evaluator.results
    assert resumed.best_result == whole.best_result
    assert resumed.get_current_lr() == whole.get_current_lr()
    last = [load_checkpoint(f"{t.output_dir}/linear/model.pth.tar-4") for t in (whole, resumed)]
    assert last[0]["scheduler"] == last[1]["scheduler"]
    assert torch.equal(last[0]["random_state"]["torch"], last[1]["random_state"]["torch"])
    assert last[0]["random_state"]["numpy"] == last[1]["random_state"]["numpy"]


def test_resume_in_another_folder_takes_the_best_model_along(make_cfg, tmp_path):
    values = {**FEATURES, "TEST.FINAL_MODEL": "best_val"}
    first = build_trainer(make_cfg(values))
    first.train()
    cfg = make_cfg({**values, "OUTPUT_DIR": str(tmp_path / "second"), "RESUME": first.output_dir})
    second = build_trainer(cfg)
    second.train()
    assert second.evaluator.results == first.evaluator.results


def test_resume_from_a_folder_without_checkpoints_starts_from_scratch(make_cfg, tmp_path, capsys):
    """Scripts of other repositories pass --resume for the first run, too."""
    plain = build_trainer(make_cfg())
    plain.train()
    values = {"OUTPUT_DIR": str(tmp_path / "other"), "RESUME": str(tmp_path / "nothing")}
    with pytest.raises(UserError, match="RESUME is .*nothing, but there is no such folder"):
        build_trainer(make_cfg(values)).train()
    (tmp_path / "nothing" / "linear").mkdir(parents=True)
    trainer = build_trainer(make_cfg(values))
    capsys.readouterr()
    with pytest.warns(UserWarning, match="RESUME is .*nothing, which has no checkpoint: training starts from scratch"):
        trainer.train()
    assert "No checkpoint found, train from scratch" in capsys.readouterr().out
    assert torch.equal(weights(trainer), weights(plain))


def test_scaler_state_is_saved(make_cfg):
    class Scaler:
        def __init__(self, scale):
            self.scale = scale

        def state_dict(self):
            return {"scale": self.scale}

        def load_state_dict(self, state):
            self.scale = state["scale"]

    cfg = make_cfg(FEATURES)
    trainer = build_trainer(cfg)
    trainer.scaler = Scaler(512.0)
    break_off_after(trainer, 1)
    other = build_trainer(cfg)
    other.scaler = Scaler(1.0)
    other.resume_model_if_exist(cfg.OUTPUT_DIR)
    assert other.scaler.scale == 512.0


def test_training_learns_and_leaves_its_files(make_cfg, tmp_path, capsys):
    trainer = build_trainer(make_cfg({"OPTIM.MAX_EPOCH": 6, "TRAINER.TINY.DROPOUT": 0.0}))
    trainer.train()
    assert trainer.evaluator.results["accuracy"] > 60  # chance is 25
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == ["linear", "tensorboard"]
    assert sorted(p.name for p in (run / "linear").iterdir()) == ["checkpoint", "model.pth.tar-6"]
    checkpoint = load_checkpoint(str(run / "linear" / "model.pth.tar-6"))
    assert checkpoint["epoch"] == 6 and checkpoint["val_result"] is None

    lines = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d{%d}"
    pattern = re.compile(
        r"epoch \[(\d)/6\] batch \[3/3\] time A \(A\) data A \(A\) loss B \(B\) acc B \(B\) "
        r"lr (\d\.\d{4}e-\d\d) eta 0:00:0\d".replace("A", number % 3).replace("B", number % 4)
    )
    matches = [pattern.fullmatch(line) for line in lines if line.startswith("epoch [")]
    assert [match[1] for match in matches] == list("123456")  # epochs of few batches have one line each
    assert matches[0][2] == "1.0000e-05" and matches[1][2] == "2.0000e-02"  # the rate used, not the next
    end = lines.index("Finish training")
    assert "Finished training" not in lines  # the log alone has the other wording
    assert lines.index("=> result") > end and lines[-1].startswith("Elapsed: 0:00:0")

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"train/loss", "train/acc", "train/lr", "test/accuracy"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(18))


def test_lines_of_longer_epochs(make_cfg, capsys):
    trainer = build_trainer(make_cfg({"TRAIN.PRINT_FREQ": 2, "OPTIM.MAX_EPOCH": 1}))
    trainer.train()
    assert re.findall(r"batch \[\d/\d\]", capsys.readouterr().out) == ["batch [2/3]"]


def test_best_model_on_validation_is_deployed(make_cfg, monkeypatch, capsys):
    trainer = build_trainer(make_cfg({"TEST.FINAL_MODEL": "best_val"}))
    results = iter([50.0, 70.0, 70.0, 60.0])
    test = trainer.test
    seen = []

    def fake_test(split=None):
        if split != "val":
            return test(split)
        seen.append(weights(trainer).clone())
        return next(results)

    monkeypatch.setattr(trainer, "test", fake_test)
    trainer.train()
    assert torch.equal(weights(trainer), seen[1])  # the first of the best two
    assert "epoch 2, val_result 70.00" in capsys.readouterr().out


def test_splits(make_cfg, capsys):
    trainer = build_trainer(make_cfg({"TEST.SPLIT": "val"}))
    trainer.test()
    assert "Evaluate on the *val* set" in capsys.readouterr().out
    trainer.val_loader = None
    trainer.test()
    assert "Evaluate on the *test* set" in capsys.readouterr().out
    with pytest.raises(ValueError, match="val or test"):
        trainer.test(split="train")


def test_load_model(make_cfg, capsys):
    cfg = make_cfg()
    trainer = build_trainer(cfg)
    trainer.load_model("")
    assert "skipped" in capsys.readouterr().out
    trainer.save_model(1, cfg.OUTPUT_DIR)
    saved = weights(trainer).clone()
    nn.init.zeros_(trainer.model[-1].weight)
    trainer.load_model(cfg.OUTPUT_DIR, epoch=2)
    assert torch.equal(weights(trainer), saved)
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-7; saved epochs: 2$"):
        trainer.load_model(cfg.OUTPUT_DIR, epoch=7)
    with pytest.raises(FileNotFoundError, match="model-best.pth.tar$"):
        trainer.load_model("nowhere")


def test_the_epoch_to_load_is_the_best_or_else_the_only_one(make_cfg, capsys):
    cfg = make_cfg()
    trainer = build_trainer(cfg)
    trainer.register_model("second", nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError, match="model-best.pth.tar$"):
        trainer.epoch_to_load(cfg.OUTPUT_DIR)
    trainer.save_model(9, cfg.OUTPUT_DIR)
    trainer.random_states = {"epoch": {}, "step": {}}
    trainer.save_model(10, cfg.OUTPUT_DIR, batch=2)  # within an epoch
    save_checkpoint({"state_dict": {}, "epoch": 3}, f"{cfg.OUTPUT_DIR}/second")  # of one model only
    capsys.readouterr()
    assert trainer.epoch_to_load(cfg.OUTPUT_DIR) == 10
    chosen = f"{cfg.OUTPUT_DIR} has no best model on validation: its only epoch, 10, is loaded\n"
    assert capsys.readouterr().out == chosen
    trainer.load_model(cfg.OUTPUT_DIR)
    assert capsys.readouterr().out.startswith(f"{chosen}Load {cfg.OUTPUT_DIR}/linear/model.pth.tar-10 to linear")
    trainer.save_model(1, cfg.OUTPUT_DIR)
    with pytest.raises(FileNotFoundError, match="model-best.pth.tar; saved epochs: 2, 10$"):
        trainer.epoch_to_load(cfg.OUTPUT_DIR)
    trainer.save_model(1, cfg.OUTPUT_DIR, model_name="model-best.pth.tar")
    assert trainer.epoch_to_load(cfg.OUTPUT_DIR) is None


def test_unknown_arguments_of_forks_are_ignored_with_one_warning(make_cfg, monkeypatch):
    monkeypatch.setattr("dassl.engine.forks.IGNORED", set())
    trainer = build_trainer(make_cfg())
    with pytest.warns(UserWarning) as warned:
        assert trainer.test() == trainer.test(is_final=True) == trainer.test("test", is_final=False, task=1)
    messages = [
        f"test() of this toolbox does not know the argument {name}: it is ignored" for name in ("is_final", "task")
    ]
    assert [str(warning.message) for warning in warned] == messages
    images = torch.rand(2, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"model_inference\(\) .* argument weight"):
        assert torch.equal(trainer.model_inference(images, weight=1), trainer.model_inference(images))


def test_checkpoints_of_something_else_are_refused(make_cfg, monkeypatch):
    monkeypatch.setattr(Tiny, "class_specific", True)
    cfg = make_cfg()
    build_trainer(cfg).save_model(1, cfg.OUTPUT_DIR)
    others = {
        ("DATASET.SUBSAMPLE_CLASSES", "new"): '4 classes \\(among them "red", "green"\\), but this run has 2 others',
        ("MODEL.BACKBONE.NAME", "small"): "backbone none, but this run has small",
    }
    for value, message in others.items():
        other = build_trainer(make_cfg([value]))
        with pytest.raises(UserError, match=message):
            other.load_model(cfg.OUTPUT_DIR, epoch=2)
        with pytest.raises(UserError, match=message):
            other.resume_model_if_exist(cfg.OUTPUT_DIR)
    other.made_with = dict  # as in old checkpoints, which do not name what they belong to
    other.model[-1] = nn.Linear(192, 3)
    with pytest.raises(UserError, match="does not fit this model"):
        other.load_model(cfg.OUTPUT_DIR, epoch=2)


def test_a_trainer_that_does_not_say_what_it_learns_of_takes_what_fits(make_cfg):
    """A folder of finished training serves to test new classes in a documented command of the family."""
    half = {part: make_cfg({"DATASET.SUBSAMPLE_CLASSES": part}) for part in ("base", "new")}
    trained, other = (build_trainer(half[part]) for part in ("base", "new"))
    trained.train()
    with pytest.warns(UserWarning, match=r'trained on 2 classes \(among them "red", "green"\), but this run'):
        other.train()
    assert other.start_epoch == other.max_epoch and torch.equal(weights(other), weights(trained))
    with pytest.warns(UserWarning, match=r"was trained on 2 classes .*: it is loaded if it fits"):
        other.load_model(half["base"].OUTPUT_DIR)
    with pytest.warns(UserWarning, match="but this run has 4 others"), pytest.raises(UserError, match="does not fit"):
        build_trainer(make_cfg()).load_model(half["base"].OUTPUT_DIR)


def test_loss_that_is_not_finite_stops_the_run(make_cfg):
    trainer = build_trainer(make_cfg({"TRAINER.TINY.LOSS_FACTOR": float("inf")}))
    before = weights(trainer).clone()
    with pytest.raises(FloatingPointError, match="infinite or NaN at epoch 1, batch 1"):
        trainer.train()
    assert torch.equal(weights(trainer), before)


def test_models_by_name(make_cfg):
    trainer = build_trainer(make_cfg())
    frozen = nn.Dropout()
    trainer.register_model("frozen", frozen)
    with pytest.raises(AssertionError):
        trainer.register_model("frozen", frozen)
    assert trainer.get_model_names() == ["linear", "frozen"]
    assert trainer.get_model_names("frozen") == ["frozen"]
    with pytest.raises(KeyError, match="no model named"):
        trainer.get_model_names("none")
    trainer.set_model_mode("eval", "frozen")
    assert not frozen.training and trainer.model.training
    with pytest.raises(ValueError, match="train, test or eval"):
        trainer.set_model_mode("trian")
    assert trainer.get_current_lr("frozen") == 0
    trainer.model_update()
    trainer.update_lr()
    assert trainer.get_current_lr() == 0.02


def test_unknown_trainer_names_the_nearest(make_cfg):
    with pytest.raises(UserError, match='unknown trainer .*"tiny".*do you mean Tiny'):
        build_trainer(make_cfg({"TRAINER.NAME": "tiny"}))


def test_names_that_other_repositories_import():
    from dassl.engine.trainer import AverageMeter, MetricMeter, SummaryWriter
    from dassl.engine.trainer import TrainerX as SameTrainerX

    assert SameTrainerX is TrainerX and issubclass(Tiny, TrainerX)
    assert all((AverageMeter, MetricMeter, SummaryWriter))


def test_a_step_without_the_part_that_opposes_another_loss():
    """By hand: where the gradients' product is negative, the second's direction is taken out of the first."""
    set_random_seed(0)
    trainer, model = TrainerX.__new__(TrainerX), nn.Linear(3, 2)
    TrainerBase.__init__(trainer)
    trainer.register_model("net", model, torch.optim.SGD(model.parameters(), lr=1.0))
    signs = set()
    for _ in range(20):
        x, y = torch.randn(2, 4, 3).unbind()
        loss_a, loss_b = model(x).square().mean(), (model(y) - 1).square().mean()
        before = [p.detach().clone() for p in model.parameters()]
        expected = []
        for p in model.parameters():
            (a,), (b,) = (torch.autograd.grad(loss, p, retain_graph=True) for loss in (loss_a, loss_b))
            product = (a * b).sum()
            signs.add(bool(product < 0))
            expected.append(a - 0.7 * product / (b * b).sum() * b if product < 0 else a)
        trainer.prograd_backward_and_update(loss_a, loss_b, lambda_=0.7)
        for p, old, step in zip(model.parameters(), before, expected, strict=True):
            torch.testing.assert_close(p.detach(), old - step)
    assert signs == {True, False}
    with pytest.raises(FloatingPointError):
        trainer.prograd_backward_and_update(loss_a, loss_b * float("nan"))


def test_a_trainer_by_name_beside_the_one_configured(make_cfg):
    cfg = make_cfg({"TRAINER.NAME": "Nobody"})
    assert isinstance(build_trainer(cfg, "Tiny"), Tiny)
    assert isinstance(build_trainer(cfg, name="Tiny"), Tiny)


def test_removed_features_raise_errors_that_name_them():
    with pytest.raises(ImportError, match="semi-supervised learning only"):
        from dassl.engine import TrainerXU  # noqa: F401


def test_one_gpu_is_visible_unless_the_user_chooses():
    """Of several processes each sees one, of those that are given."""
    shown = {
        (None, None): "0",
        ("2,3", None): "2,3",
        ("", None): "",
        (None, "1"): "1",
        ("2,3", "1"): "3",
        ("", "1"): "",
    }
    for (given, rank), expected in shown.items():
        names = {"CUDA_VISIBLE_DEVICES": given, "LOCAL_RANK": rank}
        environment = {k: v for k, v in os.environ.items() if k not in names}
        environment |= {name: value for name, value in names.items() if value is not None}
        code = "import os, runpy; runpy.run_path('dassl/__init__.py'); print(os.environ['CUDA_VISIBLE_DEVICES'])"
        shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert shown.stdout == f"{expected}\n", shown.stderr


@pytest.mark.parametrize("own", [False, True])
def test_a_method_that_draws_elsewhere_has_no_checkpoint_within_an_epoch(make_cfg, tmp_path, own):
    """A resumed epoch could not skip what the method drew before the epoch."""

    class DrawsElsewhere(Tiny):
        def before_epoch(self):
            self.views = iter(self.train_loader_x)

    kind = DrawsElsewhere if own else Tiny
    kind(make_cfg({"TRAIN.CHECKPOINT_MINUTES": 1e-9, "OPTIM.MAX_EPOCH": 1})).train()
    assert bool(list(tmp_path.rglob("model.pth.tar-0-*"))) == (not own)
    assert list(tmp_path.rglob("model.pth.tar-1"))
