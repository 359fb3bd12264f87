"""The training loop. A method derives from TrainerX and writes build_model and forward_backward."""

import datetime
import os.path as osp
import time
from itertools import islice

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import (
    AverageMeter,
    Interrupted,
    MetricMeter,
    UserError,
    copy_file,
    get_random_state,
    mkdir_if_missing,
    raise_together,
    set_random_state,
    uninterrupted,
    wait_for_all,
)

from .base import BEST, TrainerBase

__all__ = ["AverageMeter", "MetricMeter", "SimpleTrainer", "SummaryWriter", "TrainerBase", "TrainerX"]


class SimpleTrainer(TrainerBase):
    """Data, model and evaluator of a configuration: training from loader to checkpoint, and testing."""

    def __init__(self, cfg):
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.tested = []  # paths of the images that the evaluator saw last

    def check_cfg(self, cfg):
        """Raise ValueError if a value does not suit the method."""

    def build_data_loader(self):
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def made_with(self):
        """Trainer, backbone and class names."""
        cfg = self.cfg
        names = list(self.lab2cname.values())
        return {"trainer": cfg.TRAINER.NAME, "backbone": cfg.MODEL.BACKBONE.NAME, "classnames": names}

    def build_model(self):
        """Make `self.model` on `self.device` and register what is trained, with optimizer and schedule."""
        raise NotImplementedError

    def train(self):
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        mkdir_if_missing(self.output_dir)
        directory = self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(directory)
        if self.cfg.RESUME:
            if not (self.start_epoch or self.start_batch):
                raise UserError(f"RESUME is {directory}, but there is no checkpoint to continue from")
            self.copy_best_model(directory)
        last = self.start_epoch - 1
        if not self.start_batch and self.saves_after(last) and not self.has_saved(last):
            self.save_model(last, self.output_dir)  # the run was stopped between the best model and this one
        first_step = self.start_epoch * len(self.train_loader_x) + self.start_batch
        self.init_writer(osp.join(self.output_dir, "tensorboard"), purge_step=first_step or None)
        self.time_start, self.last_saved = time.time(), time.monotonic()

    def copy_best_model(self, directory):
        """The best model so far belongs to the run: no later epoch may be better."""
        for name in self.get_model_names():
            source, target = osp.join(directory, name, BEST), osp.join(self.output_dir, name, BEST)
            if osp.isfile(source) and osp.abspath(source) != osp.abspath(target):
                copy_file(source, target)

    def saves_after(self, epoch):
        """Whether an epoch, numbered from 0, ends with a checkpoint, be it the best or not."""
        freq = self.cfg.TRAIN.CHECKPOINT_FREQ
        return epoch >= 0 and (epoch + 1 == self.max_epoch or (freq > 0 and (epoch + 1) % freq == 0))

    def has_saved(self, epoch):
        """Whether that checkpoint is there, of every model."""
        names = self.get_model_names()
        return all(osp.isfile(osp.join(self.output_dir, name, f"model.pth.tar-{epoch + 1}")) for name in names)

    def after_epoch(self):
        test_cfg = self.cfg.TEST
        if not test_cfg.NO_TEST and test_cfg.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        if self.saves_after(self.epoch):
            self.save_model(self.epoch, self.output_dir)

    def after_train(self):
        # the ecosystem's log parsers wait for the one line or for the other
        print("Finish training\nFinished training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                wait_for_all()  # the first process has written it
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {format_seconds(time.time() - self.time_start)}")
        self.close_writer()

    @torch.no_grad()
    def test(self, split=None):
        """Evaluate on a split ("val" or "test"; cfg.TEST.SPLIT if None); without "val" that is "test".

        Returns:
            The evaluator's first result: accuracy in %.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        self.tested = []
        split = self.split_to_evaluate(split)
        print(f"Evaluate on the *{split}* set")
        for batch in tqdm(self.batches_to_evaluate(split), desc=split, leave=False, disable=None):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
            self.tested += batch.get("impath", ())
            raise_together()
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def split_to_evaluate(self, split=None):
        """ "val" or "test", cfg.TEST.SPLIT if None; "test" if there are no validation images."""
        split = split or self.cfg.TEST.SPLIT
        if split not in ("val", "test"):
            raise ValueError(f'the split to evaluate (TEST.SPLIT) must be val or test, got "{split}"')
        return "test" if self.val_loader is None else split

    def batches_to_evaluate(self, split):
        """The batches that `parse_batch_test` takes."""
        return self.val_loader if split == "val" else self.test_loader

    def skipped_images(self):
        """Paths of the images that could not be read, {"train": [...], ...} (DATALOADER.ON_ERROR "skip")."""
        skipped = {}
        for split, name in {"train": "train_loader_x", "val": "val_loader", "test": "test_loader"}.items():
            dataset = getattr(getattr(self, name, None), "dataset", None)
            if hasattr(dataset, "unreadable"):
                skipped[split] = [dataset.data_source[i].impath for i in dataset.unreadable.nonzero().flatten()]
        return skipped

    def model_inference(self, input):
        """Scores (B, C) of a batch of images."""
        return self.model(input)

    def parse_batch_test(self, batch):
        """Return a batch's images and labels on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)


class TrainerX(SimpleTrainer):
    """Training on labelled images: `forward_backward(batch)` is the method.

    A run is saved between steps every TRAIN.CHECKPOINT_MINUTES, and when a signal stops it.
    """

    def run_epoch(self):
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
                        lr = self.get_current_lr()  # before the last batch steps the schedule: the one that is used
                        loss_summary = self.forward_backward(batch)
                        losses.update(loss_summary)
                        batch_time.update(time.time() - end)
                        self.tell_step(bar, title, losses, batch_time, data_time, lr)
                        self.random_states["step"] = get_random_state()
                        minutes = self.cfg.TRAIN.CHECKPOINT_MINUTES
                        if minutes > 0 and time.monotonic() - self.last_saved > 60 * minutes:
                            self.save_steps(batch_idx + 1)
                        end = time.time()
                        raise_together()
        except (Interrupted, FloatingPointError) as error:  # the step that is not finite has changed nothing
            with uninterrupted():
                self.save_steps(self.batch_idx + isinstance(error, Interrupted))
            raise
        self.random_states = {}

    def batches_from(self, first):
        """The epoch's batches, without those that were finished before the run was stopped.

        Those are drawn all the same, since how the rest is drawn may depend on it.
        """
        states = self.random_states
        if states:
            set_random_state(states["epoch"])
        else:
            states["epoch"] = get_random_state()
        batches = iter(self.train_loader_x)
        for _ in tqdm(islice(batches, first), total=first, desc="draw what is done", leave=False, disable=None):
            pass
        if "step" in states:
            set_random_state(states["step"])
        else:
            states["step"] = get_random_state()
        return batches

    def save_steps(self, finished):
        """Save in the middle of the epoch, after so many steps."""
        self.save_model(self.epoch, self.output_dir, batch=finished)

    def tell_step(self, bar, title, losses, batch_time, data_time, lr):
        """Show a step in the progress bar, the log and TensorBoard."""
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
        """Every PRINT_FREQ-th batch has a line; an epoch with fewer batches has one, at its end."""
        freq, done = self.cfg.TRAIN.PRINT_FREQ, self.batch_idx + 1
        return done % freq == 0 or done == self.num_batches < freq

    def forward_backward(self, batch):
        """Take a training step and return {name: number} to print, or None.

        On the last batch of an epoch (`self.batch_idx + 1 == self.num_batches`) it calls `self.update_lr()`.
        """
        raise NotImplementedError

    def parse_batch_train(self, batch):
        """Return a batch's images, labels and domains on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


def format_seconds(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))
