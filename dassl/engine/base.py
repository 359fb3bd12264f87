"""The base class of trainers: models by name, checkpoints, steps and the loop over epochs."""

import os.path as osp
import time
from collections import OrderedDict
from pathlib import Path

import torch

from dassl.utils import (
    UserError,
    checkpoint_name,
    load_checkpoint,
    load_last_checkpoints,
    restore_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

from .forks import ForkMethods
from .scalars import ScalarMethods


class TrainerBase(ForkMethods, ScalarMethods):
    """Models by name with their optimizers and schedules; checkpoints; the loop over epochs.

    A checkpoint is the file <directory>/<model name>/model.pth.tar-<finished epochs>. Beside the states of model,
    optimizer and schedule it holds `best_result`, the state of `scaler` and what the weights belong to (`made_with`).

    Attributes:
        parallel: Whether several processes can train as one.
        class_specific: Whether the weights belong to certain classes and are useless for others.
        scaler: A torch GradScaler if the trainer uses one, else None.
        best_result: The best result on validation so far.
        results: Numbers of the trainer that join the evaluator's in results.json.
        epoch: The current epoch, from 0.
        batch_idx: The current batch of the epoch, from 0.
        start_batch: Batches of the first epoch that were finished before the run was stopped.
    """

    parallel = False
    class_specific = True

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
        self.start_batch = 0
        self.random_states = {}  # "epoch": at its start, "step": after the last step; empty between epochs
        self.last_saved = time.monotonic()

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Register a model, with its optimizer and schedule, to be saved, resumed and switched between modes."""
        if name in self._models:
            raise AssertionError(f'a model named "{name}" is already registered')
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def made_with(self):
        """Return what the weights belong to, in plain values; a checkpoint with other values is refused."""
        return {}

    def check_origin(self, checkpoint, fpath):
        """Check that a checkpoint belongs to this trainer.

        Args:
            checkpoint: Content of the checkpoint.
            fpath: Its path, for the error message.

        Raises:
            UserError: It is no checkpoint of a trainer, or its `made_with` is another one.
        """
        if missing := {"state_dict", "epoch"} - set(checkpoint):
            raise UserError(f"{fpath} is no checkpoint of a trainer: it has no {' and no '.join(sorted(missing))}")
        made = checkpoint.get("made_with", {})  # upstream Dassl's have none
        for key, ours in self.made_with().items():
            theirs = made.get(key, ours)
            if theirs == ours or (key == "classnames" and not self.class_specific):
                continue
            if key == "classnames":
                new = [f'"{name}"' for name in theirs if name not in ours][:3]
                difference = f"among them {', '.join(new)}" if new else "in another order"
                raise UserError(
                    f"{fpath} was trained on {len(theirs)} classes ({difference}), but this run has {len(ours)} others"
                )
            raise UserError(f"{fpath} was trained with {key} {theirs or 'none'}, but this run has {ours or 'none'}")

    def get_model_names(self, names=None):
        """Return the given names as a list, or the names of all models if None.

        Raises:
            KeyError: A name is not registered.
        """
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            if name not in self._models:
                raise KeyError(f'no model named "{name}" is registered; registered: {list(self._models)}')
        return names

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name="", batch=None):
        """Save a checkpoint of every registered model.

        Args:
            epoch: The epoch, from 0.
            directory: Folder of the models' folders.
            is_best: Copy the checkpoints to model-best.pth.tar, too.
            val_result: Result on validation, if known.
            model_name: File name instead of model.pth.tar-<finished epochs>.
            batch: Finished batches of the epoch; None if all are finished.
        """
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
        """Load the last checkpoints in a folder, if it has some; set `start_batch`.

        Returns:
            The number of finished epochs; 0 without checkpoints.

        Raises:
            UserError: The checkpoints belong to another model, are unreadable, or those of several models were not
                saved at the same time.
        """
        names = self.get_model_names()
        folders = [osp.join(directory, name) for name in names]
        if not names or not all(osp.isfile(osp.join(folder, "checkpoint")) for folder in folders):
            print("No checkpoint found, train from scratch")
            return 0
        saved = []  # {(finished epochs, finished batches): checkpoint} of each model, the newest last
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
        if self.scaler is not None and checkpoint.get("scaler"):  # empty if the scaler was not enabled
            self.scaler.load_state_dict(checkpoint["scaler"])
        epoch, self.start_batch = moments[0]
        if "batch" in checkpoint:
            self.random_states = {"epoch": checkpoint["epoch_random_state"], "step": checkpoint["random_state"]}
        batches = f" and {self.start_batch} batches" if self.start_batch else ""
        print(f"Resumed from {directory}, {epoch} epochs{batches} finished")
        return epoch

    def saved_epochs(self, directory):
        """Return the sorted numbers of finished epochs of which a folder has the checkpoints of all models."""
        prefix, saved = checkpoint_name(""), []
        for name in self.get_model_names():
            numbers = [path.name.removeprefix(prefix) for path in Path(directory, name).glob(f"{prefix}*")]
            saved.append({int(number) for number in numbers if number.isdecimal()})  # others are within an epoch
        return sorted(set.intersection(*saved)) if saved else []

    def check_saved(self, directory, epoch=None):
        """Check that a folder has the checkpoints of all models; arguments as for `load_model`.

        Raises:
            FileNotFoundError: One is missing; the message names the epochs that have one.
        """
        for name in self.get_model_names():
            fpath = osp.join(directory, name, checkpoint_name(epoch))
            if not osp.isfile(fpath):
                epochs = ", ".join(map(str, self.saved_epochs(directory)))
                raise FileNotFoundError(f"no checkpoint at {fpath}" + (f"; saved epochs: {epochs}" if epochs else ""))

    def epoch_to_load(self, directory):
        """Return the epoch to load from a folder if the user chose none.

        Returns:
            None, which stands for the best model on validation; the only saved epoch if there is no such model.

        Raises:
            FileNotFoundError: There is no best model and not just one epoch.
        """
        try:
            self.check_saved(directory)
        except FileNotFoundError:
            epochs = self.saved_epochs(directory)
            if len(epochs) != 1:
                raise
            print(f"{directory} has no best model on validation: its only epoch, {epochs[0]}, is loaded")
            return epochs[0]
        return None

    def load_model(self, directory, epoch=None):
        """Load the weights of every registered model.

        Args:
            directory: Folder of the models' folders; "" loads nothing.
            epoch: Number of finished epochs; None for the best on validation.

        Raises:
            FileNotFoundError: A checkpoint is missing; the message names the epochs that have one.
            UserError: Its weights do not fit the model.
        """
        if not directory:
            print("No pretrained model is given: load_model() is skipped")
            return
        self.check_saved(directory, epoch)
        for name in self.get_model_names():
            fpath = osp.join(directory, name, checkpoint_name(epoch))
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
        """Switch models to the mode "train", or "test" or "eval", which are the same."""
        if mode not in ("train", "test", "eval"):
            raise ValueError(f'mode must be train, test or eval, got "{mode}"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names=None):
        """Step the schedules of the learning rate, once per epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names=None):
        """Return the learning rate of the first parameter group of the first model; 0 without an optimizer."""
        optim = self._optims[self.get_model_names(names)[0]]
        return 0.0 if optim is None else optim.param_groups[0]["lr"]

    def detect_anomaly(self, loss, terms=None, what="Loss"):
        """Check that a loss is finite.

        Args:
            loss: The loss, a tensor.
            terms: {name: tensor} of its terms, for the error message.
            what: Name of `loss` in the message.

        Raises:
            FloatingPointError: It is not finite. The message gives epoch, batch and the terms that are not finite.
        """
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
        """Take a step of the optimizers that reduces the loss."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def train(self, start_epoch, max_epoch):
        """Run the epochs from `start_epoch`, the number of finished ones, until `max_epoch` are finished.

        `before_train` may set other numbers in `self.start_epoch` and `self.max_epoch`.
        """
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        epochs = range(self.start_epoch, self.max_epoch)
        for self.epoch in epochs:
            for part in ("before_epoch", "run_epoch", "after_epoch"):
                getattr(self, part)()
        self.after_train()

    def before_train(self):
        """Prepare the training; by default nothing."""

    def before_epoch(self):
        """Prepare an epoch; by default nothing."""

    def run_epoch(self):
        """Train for one epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no run_epoch()")

    def after_epoch(self):
        """Finish an epoch; by default nothing."""

    def after_train(self):
        """Finish the training; by default nothing."""

    def test(self):
        """Evaluate the models."""
        raise NotImplementedError(f"{type(self).__name__} has no test()")
