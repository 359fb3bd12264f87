"""The training loop.

A method is a class derived from TrainerX that defines `build_model` and `forward_backward`.
"""

import time
from itertools import islice

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dassl.utils import (
    AverageMeter,
    Interrupted,
    MetricMeter,
    get_random_state,
    raise_together,
    set_random_state,
    uninterrupted,
)

from .base import TrainerBase
from .simple import SimpleTrainer, format_seconds

# Other repositories import these from here.
__all__ = ["AverageMeter", "MetricMeter", "SimpleTrainer", "SummaryWriter", "TrainerBase", "TrainerX"]


class TrainerX(SimpleTrainer):
    """A trainer on labelled images; the method is `forward_backward(batch)`.

    A checkpoint within an epoch is written every TRAIN.CHECKPOINT_MINUTES, when a signal stops the run, and when a
    loss is not finite.
    """

    def run_epoch(self):
        """Train on all batches of the epoch that are not finished yet."""
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        title = f"epoch [{self.epoch + 1}/{self.max_epoch}]"
        style = {"bar_format": "{desc} {n_fmt}/{total_fmt} |{bar:10}|{postfix}", "leave": False}
        first, self.start_batch = self.start_batch, 0
        batches, self.batch_idx = self.batches_from(first), first - 1
        try:
            with tqdm(batches, desc=title, disable=None, total=self.num_batches, initial=first, **style) as bar:
                end = time.time()
                for batch_idx, batch in enumerate(bar, start=first):
                    with uninterrupted():
                        self.batch_idx = batch_idx
                        data_time.update(time.time() - end)
                        lr = self.get_current_lr()  # the one of this step: the last batch steps the schedule
                        loss_summary = self.forward_backward(batch)
                        losses.update(loss_summary)
                        batch_time.update(time.time() - end)
                        self.report_step(bar, title, losses, batch_time, data_time, lr)
                        self.random_states["step"] = get_random_state()
                        minutes = self.cfg.TRAIN.CHECKPOINT_MINUTES
                        if minutes > 0 and time.monotonic() - self.last_saved > 60 * minutes:
                            self.save_steps(batch_idx + 1)
                        end = time.time()
                        raise_together()
        except (Interrupted, FloatingPointError) as error:  # a step that is not finite changes nothing
            with uninterrupted():
                self.save_steps(self.batch_idx + isinstance(error, Interrupted))
            raise
        self.random_states = {}

    def batches_from(self, first):
        """Return an iterator of the epoch's batches from number `first` on, and set the random states.

        The earlier batches, which were finished before the run was stopped, are drawn as well: the others may depend on
        their random numbers.
        """
        states = self.random_states
        if states:
            set_random_state(states["epoch"])
        else:
            states["epoch"] = get_random_state()
        batches = iter(self.train_loader_x)
        for _ in tqdm(islice(batches, first), total=first, desc="skip finished batches", leave=False, disable=None):
            pass
        if "step" in states:
            set_random_state(states["step"])
        else:
            states["step"] = get_random_state()
        return batches

    def save_steps(self, finished):
        """Save a checkpoint within the epoch, after `finished` steps.

        A class that prepares epochs or loaders of its own may draw batches that a resumed epoch cannot skip. It has no
        such checkpoints: it resumes at the start of an epoch.
        """
        own = {"before_epoch", "build_data_loader"} & {name for kind in self.own_classes() for name in vars(kind)}
        if not own:
            self.save_model(self.epoch, self.output_dir, batch=finished)

    def own_classes(self):
        """Return the classes between the trainer's and TrainerX: the method's own."""
        kinds = type(self).__mro__
        return kinds[: kinds.index(TrainerX)]

    def report_step(self, bar, title, losses, batch_time, data_time, lr):
        """Report a step in the progress bar, the log and TensorBoard."""
        done = self.batch_idx + 1
        epochs_left = self.max_epoch - self.epoch - 1
        eta = format_seconds(batch_time.avg * (self.num_batches - done + epochs_left * self.num_batches))
        averages = [f"{name} {meter.avg:.3f}" for name, meter in losses.meters.items()]
        bar.set_postfix_str(" ".join([f"eta {eta} lr {lr:.2e}", *averages]), refresh=False)
        if self.is_print_batch():
            parts = [
                f"{title} batch [{done}/{self.num_batches}]",
                f"time {batch_time.val:.3f} ({batch_time.avg:.3f})",
                f"data {data_time.val:.3f} ({data_time.avg:.3f})",
                str(losses),
                f"lr {lr:.4e} eta {eta}",
            ]
            tqdm.write(" ".join(filter(None, parts)))

        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.val, step)
        self.write_scalar("train/lr", lr, step)

    def is_print_batch(self):
        """Return whether the batch has a line in the log: each PRINT_FREQ-th, or the last of a shorter epoch."""
        freq, done = self.cfg.TRAIN.PRINT_FREQ, self.batch_idx + 1
        return done % freq == 0 or done == self.num_batches < freq

    def forward_backward(self, batch):
        """Take a training step; on the last batch of an epoch, call `self.update_lr()`. Each trainer writes it.

        The last batch is the one with `self.batch_idx + 1 == self.num_batches`.

        Returns:
            {name: number} to report, or None.
        """
        raise NotImplementedError

    def parse_batch_train(self, batch):
        """Return a batch's images, labels and domains on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))
