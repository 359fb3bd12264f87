"""What is trained, by name: checkpoints, steps and the loop over epochs."""

import os.path as osp
import sys
import time
from collections import OrderedDict

import torch
from torch.utils.tensorboard import SummaryWriter

from dassl.utils import (
    UserError,
    is_main,
    load_checkpoint,
    load_last_checkpoints,
    restore_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

BEST = "model-best.pth.tar"


class TrainerBase:
    """Models by name with their optimizers and schedules; checkpoints; the loop over epochs.

    Checkpoints are <directory>/<model name>/model.pth.tar-<epochs finished>. They also hold `best_result`, the
    state of `scaler`, a torch GradScaler, if a trainer sets one, and what the weights belong to (`made_with`).
    `results` holds numbers of a trainer's own that join the evaluator's in results.json.
    """

    parallel = False  # whether several processes can train as one
    class_specific = True  # whether the weights are of certain classes, and mean nothing for others

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()
        self._writer = None
        self.scaler = None
        self.best_result = float("-inf")
        self.results = {}
        self.start_epoch = self.epoch = self.max_epoch = 0
        self.batch_idx = 0
        self.start_batch = 0  # batches of the first epoch that were finished before
        self.random_states = {}  # "epoch": at its start, "step": after the last one; empty between epochs
        self.last_saved = time.monotonic()

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Name a model, to be saved, resumed and switched between modes, with what drives it."""
        if name in self._models:
            raise AssertionError(f'a model named "{name}" is already registered')
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def made_with(self):
        """What the weights belong to, in plain values: checkpoints of something else are refused."""
        return {}

    def check_origin(self, checkpoint, fpath):
        """Raise UserError, naming both sides, if a checkpoint was made with something else than this trainer."""
        if missing := {"state_dict", "epoch"} - set(checkpoint):
            raise UserError(f"{fpath} is no checkpoint of a trainer: it has no {' and no '.join(sorted(missing))}")
        made = checkpoint.get("made_with", {})  # upstream's do not tell
        for key, ours in self.made_with().items():
            theirs = made.get(key, ours)
            if theirs == ours or (key == "classnames" and not self.class_specific):
                continue
            if key == "classnames":
                new = [f'"{name}"' for name in theirs if name not in ours][:3] or ["them in another order"]
                theirs, ours = f"{len(theirs)} (with {', '.join(new)})", f"{len(ours)} others"
            raise UserError(f"{fpath} was learned with {key} {theirs or 'none'}, but this run has {ours or 'none'}")

    def get_model_names(self, names=None):
        """The names given, as a list, or all.

        Raises:
            KeyError: a name is not registered.
        """
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            if name not in self._models:
                raise KeyError(f'no model named "{name}" is registered, only {list(self._models)}')
        return names

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name="", batch=None):
        """Save every registered model after epoch number `epoch` (from 0), or after `batch` batches of it."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1 if batch is None else epoch,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
                "best_result": float(self.best_result),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "made_with": self.made_with(),
            }
            if batch is not None:
                state |= {"batch": batch, "epoch_random_state": self.random_states["epoch"]}
                state["random_state"] = self.random_states["step"]
            save_checkpoint(state, osp.join(directory, name), is_best=is_best, model_name=model_name)
        self.last_saved = time.monotonic()

    def resume_model_if_exist(self, directory):
        """Continue from the last checkpoints in a folder; return the number of epochs finished.

        `start_batch` are the batches finished of the next epoch.

        Raises:
            UserError: they were made with another model, none can be read, or no two are of the same moment.
        """
        names = self.get_model_names()
        folders = [osp.join(directory, name) for name in names]
        if not names or not all(osp.isfile(osp.join(folder, "checkpoint")) for folder in folders):
            print("No checkpoint found, train from scratch")
            return 0
        saved = []  # of each model, {(epochs, batches finished): checkpoint}, the newest first
        for folder in folders:
            checkpoints = load_last_checkpoints(folder)
            for checkpoint in checkpoints:
                self.check_origin(checkpoint, folder)
            saved.append({(c["epoch"], c.get("batch", 0)): c for c in reversed(checkpoints)})
        moments = [moment for moment in reversed(saved[0]) if all(moment in of_model for of_model in saved)]
        if not moments:
            raise UserError(f"the checkpoints in {directory} are of different epochs: {[[*m] for m in saved]}")
        for name, of_model in zip(names, saved, strict=True):
            checkpoint = of_model[moments[0]]
            restore_checkpoint(checkpoint, self._models[name], self._optims[name], self._scheds[name])
        self.best_result = checkpoint.get("best_result", self.best_result)
        if self.scaler is not None and checkpoint.get("scaler"):  # empty if it was not enabled
            self.scaler.load_state_dict(checkpoint["scaler"])
        epoch, self.start_batch = moments[0]
        if "batch" in checkpoint:
            self.random_states = {"epoch": checkpoint["epoch_random_state"], "step": checkpoint["random_state"]}
        batches = f" and {self.start_batch} batches" if self.start_batch else ""
        print(f"Resumed from {directory}, {epoch} epochs{batches} finished")
        return epoch

    def load_model(self, directory, epoch=None):
        """Load weights: of `epoch` (epochs finished), or the best on validation. "" loads nothing.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            UserError: its weights are not those of the model.
        """
        if not directory:
            print("No pretrained model is given: load_model() is skipped")
            return
        for name in self.get_model_names():
            fpath = osp.join(directory, name, BEST if epoch is None else f"model.pth.tar-{epoch}")
            checkpoint = load_checkpoint(fpath)
            self.check_origin(checkpoint, fpath)
            try:
                self._models[name].load_state_dict(checkpoint["state_dict"])
            except RuntimeError as error:
                raise UserError(f"{fpath} does not fit this model: other classes or settings") from error
            result = checkpoint.get("val_result")
            note = "" if result is None else f", val_result {result:.2f}"
            print(f"Load {fpath} to {name} (epoch {checkpoint['epoch']}{note})")

    def set_model_mode(self, mode="train", names=None):
        """Switch models to "train", "test" or "eval" (the last two are the same)."""
        if mode not in ("train", "test", "eval"):
            raise ValueError(f'mode must be train, test or eval, got "{mode}"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        """Step the schedules; once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names=None):
        """Learning rate of the first group of the first model; 0 if it has no optimizer."""
        optim = self._optims[self.get_model_names(names)[0]]
        return 0.0 if optim is None else optim.param_groups[0]["lr"]

    def detect_anomaly(self, loss, terms=None, what="Loss"):
        """Raise FloatingPointError, naming epoch, batch and, of {name: term}, the terms, unless the loss is finite."""
        if not torch.isfinite(loss).all():
            wrong = [name for name, term in (terms or {}).items() if not torch.isfinite(term).all()]
            of_terms = f" of {' and '.join(wrong)}" if wrong else ""
            raise FloatingPointError(
                f"{what}{of_terms} is infinite or NaN at epoch {self.epoch + 1}, batch {self.batch_idx + 1}: "
                "a lower OPTIM.LR or full precision may help"
            )

    def model_zero_grad(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """One step of the optimizers down the loss."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(self, loss_a, loss_b, lambda_=1, names=None):
        """One step down loss_a, without that part of each parameter's gradient that opposes loss_b's.

        Where g_a . g_b < 0, g_a loses lambda_ times its projection on g_b (ProGrad, arXiv 2205.14865).
        """
        self.model_zero_grad(names)
        self.detect_anomaly(loss_b)
        models = [self._models[name] for name in self.get_model_names(names)]
        parameters = [p for model in models for p in model.parameters() if p.requires_grad]
        gradients_b = torch.autograd.grad(loss_b, parameters, retain_graph=True, allow_unused=True)
        self.model_backward(loss_a)
        for parameter, g_b in zip(parameters, gradients_b, strict=True):
            if parameter.grad is not None and g_b is not None:
                direction = g_b / g_b.norm().clamp(min=torch.finfo(g_b.dtype).tiny)
                parameter.grad -= lambda_ * (parameter.grad * direction).sum().clamp(max=0) * direction
        self.model_update(names)

    def init_writer(self, log_dir, purge_step=None):
        """Open TensorBoard's event file; what a run that was killed wrote from `purge_step` on is hidden."""
        if self._writer is None and is_main():
            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir, purge_step=purge_step)

    def close_writer(self):
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                print(f"TensorBoard's files end here: {error.strerror or error}", file=sys.stderr)

    def write_scalar(self, tag, scalar_value, global_step=None):
        """Write a number to TensorBoard; nothing outside of training, or once that has failed."""
        if self._writer is not None:
            try:
                self._writer.add_scalar(tag, scalar_value, global_step)
            except OSError:  # a full disk, say, which stops no run
                self.close_writer()

    def train(self, start_epoch, max_epoch):
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self):
        pass

    def after_train(self):
        pass

    def before_epoch(self):
        pass

    def after_epoch(self):
        pass

    def run_epoch(self):
        raise NotImplementedError

    def test(self):
        raise NotImplementedError
