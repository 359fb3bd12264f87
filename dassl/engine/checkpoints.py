"""Checkpoints of a trainer: written, resumed and loaded."""

import os.path as osp
import time
import warnings
from pathlib import Path

from dassl.utils import (
    UserError,
    checkpoint_name,
    load_checkpoint,
    load_last_checkpoints,
    most_bytes,
    restore_checkpoint,
    save_checkpoint,
)


class CheckpointMethods:
    """For TrainerBase, whose docstring says what a checkpoint holds."""

    def made_with(self):
        """Return what the weights belong to, in plain values; a checkpoint with other values is refused."""
        return {}

    def check_origin(self, checkpoint, fpath):
        """Check that a checkpoint belongs to this trainer.

        If the trainer does not say whether its weights are `class_specific`, those of another origin are taken with a
        warning, as scripts of other repositories do: they test on new classes, or load what another trainer learned.

        Args:
            checkpoint: Content of the checkpoint.
            fpath: Its path, for the error message.

        Raises:
            UserError: It is no checkpoint of a trainer, or is of another origin.
        """
        if missing := {"state_dict", "epoch"} - set(checkpoint):
            raise UserError(f"{fpath} is no checkpoint of a trainer: it has no {' and no '.join(sorted(missing))}")
        made = checkpoint.get("made_with", {})  # upstream Dassl's have none
        for key, ours in self.made_with().items():
            theirs = made.get(key, ours)
            if theirs == ours or (key == "classnames" and self.class_specific is False):
                continue
            difference = f"with {key} {theirs or 'none'}, but this run has {ours or 'none'}"
            if key == "classnames":
                new = [f'"{name}"' for name in theirs if name not in ours][:3]
                which = f"among them {', '.join(new)}" if new else "in another order"
                difference = f"on {len(theirs)} classes ({which}), but this run has {len(ours)} others"
            message = f"{fpath} was trained {difference}"
            if self.class_specific is not None:
                raise UserError(message)
            warnings.warn(f"{message}: it is loaded if it fits, be sure that it serves this run", stacklevel=2)

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
        for name, folder in zip(names, folders, strict=True):
            checkpoints = load_last_checkpoints(folder, most_bytes(self._models[name]))
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
            epoch: Number of finished epochs; None for what `epoch_to_load` chooses.

        Raises:
            FileNotFoundError: A checkpoint is missing; the message names the epochs that have one.
            UserError: Its weights do not fit the model.
        """
        if not directory:
            print("No pretrained model is given: load_model() is skipped")
            return
        if epoch is None:
            epoch = self.epoch_to_load(directory)
        self.check_saved(directory, epoch)
        for name in self.get_model_names():
            fpath = osp.join(directory, name, checkpoint_name(epoch))
            checkpoint = load_checkpoint(fpath, most_bytes(self._models[name]))
            self.check_origin(checkpoint, fpath)
            try:
                self._models[name].load_state_dict(checkpoint["state_dict"])
            except RuntimeError as error:
                raise UserError(f"{fpath} does not fit this model: other classes or settings") from error
            result = checkpoint.get("val_result")
            note = "" if result is None else f", val_result {result:.2f}"
            print(f"Load {fpath} to {name} (epoch {checkpoint['epoch']}{note})")
