"""A trainer with data, model and evaluator: checkpoints around epochs, and the test."""

import datetime
import os.path as osp
import time
import warnings

import torch
from tqdm import tqdm

from dassl.data import DataManager
from dassl.data.data_manager import remarked
from dassl.evaluation import build_evaluator
from dassl.metrics import learn_temperature
from dassl.utils import (
    BEST,
    UserError,
    choose_device,
    copy_file,
    log_only,
    mkdir_if_missing,
    raise_together,
    wait_for_all,
)

from .base import TrainerBase
from .forks import ignore

# Attributes of the data manager that a trainer has under the same names.
LOADERS = ("train_loader_x", "train_loader_u", "val_loader", "test_loader")
OF_THE_DATA = (*LOADERS, "num_classes", "num_source_domains", "lab2cname")


class SimpleTrainer(TrainerBase):
    """A trainer with the data, the model and the evaluator of a configuration.

    Args:
        cfg: The configuration.

    Attributes:
        device: The torch device of the model.
        tested: Paths of the images of the last test, in order.
    """

    def __init__(self, cfg):
        super().__init__()
        self.check_cfg(cfg)
        self.cfg, self.device, self.tested = cfg, choose_device(cfg.USE_CUDA), []
        self.output_dir, self.max_epoch = cfg.OUTPUT_DIR, cfg.OPTIM.MAX_EPOCH
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg):
        """Check the values of the method's keys; a method may define this.

        Raises:
            ValueError: A value is not allowed.
        """

    def build_data_loader(self):
        """Make the data manager `dm`; its loaders and its facts about the classes become the trainer's, too."""
        self.dm = DataManager(self.cfg)
        for name in OF_THE_DATA:
            setattr(self, name, getattr(self.dm, name))

    def made_with(self):
        """Return the names of trainer, backbone and classes."""
        cfg = self.cfg
        names = list(self.lab2cname.values())
        return {"trainer": cfg.TRAINER.NAME, "backbone": cfg.MODEL.BACKBONE.NAME, "classnames": names}

    def build_model(self):
        """Make `self.model` on `self.device`; register what is trained, with its optimizer and schedule.

        Each trainer writes it.
        """
        raise NotImplementedError

    def train(self):
        with self.spending("training"):
            super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        mkdir_if_missing(self.output_dir)
        directory = self.cfg.RESUME or self.output_dir
        if self.cfg.RESUME and not osp.isdir(directory):
            raise UserError(f"RESUME is {directory}, but there is no such folder")
        self.start_epoch = self.resume_model_if_exist(directory)
        if self.start_epoch or self.random_states:  # those of a checkpoint within an epoch
            self.copy_best_model(directory)
        elif self.cfg.RESUME:
            # Scripts of other repositories pass --resume for the first run, too.
            warnings.warn(f"RESUME is {directory}, which has no checkpoint: training starts from scratch", stacklevel=2)
        last = self.start_epoch - 1
        if not self.start_batch and self.saves_after(last) and last + 1 not in self.saved_epochs(self.output_dir):
            self.save_model(last, self.output_dir)  # the run was stopped after saving the best model
        first_step = self.start_epoch * len(self.train_loader_x) + self.start_batch
        self.init_writer(osp.join(self.output_dir, "tensorboard"), purge_step=first_step or None)
        self.time_start, self.last_saved = time.time(), time.monotonic()

    def copy_best_model(self, directory):
        """Copy the best model so far into the output folder, since no later epoch may be better."""
        for name in self.get_model_names():
            source, target = osp.join(directory, name, BEST), osp.join(self.output_dir, name, BEST)
            if osp.isfile(source) and osp.abspath(source) != osp.abspath(target):
                copy_file(source, target)

    def saves_after(self, epoch):
        """Return whether an epoch, numbered from 0, ends with a checkpoint even if it is not the best."""
        freq = self.cfg.TRAIN.CHECKPOINT_FREQ
        return epoch >= 0 and (epoch + 1 == self.max_epoch or (freq > 0 and (epoch + 1) % freq == 0))

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
        print("Finish training")
        log_only("Finished training")  # log parsers of the CoOp family wait for one line or the other
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                wait_for_all()  # the first process writes it
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {format_seconds(time.time() - self.time_start)}")
        self.close_writer()

    @torch.no_grad()
    def test(self, split=None, **unknown):
        """Evaluate the model on a split.

        Args:
            split: As for `split_to_evaluate`.
            **unknown: Ignored with a warning.

        Returns:
            The evaluator's first result; the accuracy in % by default.
        """
        ignore(unknown, "test")
        with self.spending("testing"):
            self.set_model_mode("eval")
            self.evaluator.reset()
            self.tested = []
            split = self.split_to_evaluate(split)
            if split == "test" and (known := self.validation_probabilities()):
                self.evaluator.temperature = learn_temperature(*known)
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

    def validation_probabilities(self):
        """Return arrays of class probabilities (n, C) and labels (n,) of validation images that are not the test's.

        A test learns the temperature of its probabilities on them. By default there are none: None.
        """

    def split_to_evaluate(self, split=None):
        """Return the split to evaluate, "val" or "test".

        Args:
            split: "val", "test", or None for cfg.TEST.SPLIT. Without validation images, "val" means "test".

        Raises:
            ValueError: The split has another name.
        """
        split = split or self.cfg.TEST.SPLIT
        if split not in ("val", "test"):
            raise ValueError(f'the split to evaluate (TEST.SPLIT) must be val or test, got "{split}"')
        return "test" if self.val_loader is None else split

    def batches_to_evaluate(self, split):
        """Return the loader of a split, whose batches `parse_batch_test` takes."""
        return self.val_loader if split == "val" else self.test_loader

    def skipped_images(self):
        """Return the paths of unreadable images by split, {"train": [...], ...} (DATALOADER.ON_ERROR "skip")."""
        skipped = {}
        for split, name in {"train": "train_loader_x", "val": "val_loader", "test": "test_loader"}.items():
            dataset = getattr(getattr(self, name, None), "dataset", None)
            if hasattr(dataset, "unreadable"):
                skipped[split] = [dataset.data_source[i].impath for i in dataset.unreadable.nonzero().flatten()]
        return skipped

    def image_remarks(self):
        """Return {key of dassl.utils.images.REMARKS: number of images that it applies to}."""
        loaders = [getattr(self, name, None) for name in LOADERS]
        datasets = [getattr(loader, "dataset", None) for loader in loaders]
        return remarked(dataset for dataset in datasets if hasattr(dataset, "remarks"))

    def model_inference(self, input, **unknown):
        """Return the scores (B, C) of a batch of images; unknown arguments are ignored with a warning."""
        ignore(unknown, "model_inference")
        return self.model(input)

    def parse_batch_test(self, batch):
        """Return a batch's images and labels on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)


def format_seconds(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))
