"""Upstream's trainers for `standin.py`, written by their documented behaviour."""

import os
import sys
import time
from collections import OrderedDict

import beneath.utils
import torch
from standin_parts import DataManager, build_evaluator, load_checkpoint, resume_from_checkpoint
from torch.utils.tensorboard import SummaryWriter


class TrainerBase:
    def __init__(self):
        self._models, self._optims, self._scheds = OrderedDict(), OrderedDict(), OrderedDict()
        self._writer = None

    def register_model(self, name="model", model=None, optim=None, sched=None):
        assert name not in self._models
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names=None):
        return list(self._models) if names is None else beneath.utils.tolist_if_not(names)

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        for name, model in self._models.items():
            parts = {"optimizer": self._optims[name], "scheduler": self._scheds[name]}
            state = {key: part and part.state_dict() for key, part in parts.items()}
            state |= {"state_dict": model.state_dict(), "epoch": epoch + 1, "val_result": val_result}
            folder = os.path.join(directory, name)
            beneath.utils.save_checkpoint(state, folder, is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory):
        folders = {name: os.path.join(directory, name) for name in self._models}
        if not all(map(os.path.exists, folders.values())):
            print("No checkpoint found, train from scratch")
            return 0
        epoch = 0
        for name, folder in folders.items():
            parts = self._models[name], self._optims[name], self._scheds[name]
            epoch = resume_from_checkpoint(folder, *parts)
        return epoch

    def load_model(self, directory, epoch=None):
        if not directory:
            print("load_model() is skipped")
            return
        for name, model in self._models.items():
            file = f"model.pth.tar-{epoch}" if epoch else "model-best.pth.tar"
            checkpoint = load_checkpoint(os.path.join(directory, name, file))
            print(f"Load {file} to {name} (val_result={checkpoint['val_result']:.1f})")  # None is a TypeError
            model.load_state_dict(checkpoint["state_dict"])

    def set_model_mode(self, mode="train", names=None):
        for name in self.get_model_names(names):
            self._models[name].train({"train": True, "test": False, "eval": False}[mode])

    def update_lr(self, names=None):
        for sched in filter(None, [self._scheds[name] for name in self.get_model_names(names)]):
            sched.step()

    def detect_anomaly(self, loss):
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def init_writer(self, log_dir):
        self._writer = self._writer or SummaryWriter(log_dir=log_dir)

    def close_writer(self):
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag, scalar_value, global_step=None):
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def train(self, start_epoch, max_epoch):
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()  # which may set start_epoch
        for number in range(self.start_epoch, self.max_epoch):
            self.epoch = number
            for part in (self.before_epoch, self.run_epoch, self.after_epoch):
                part()
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

    def parse_batch_train(self, batch):
        raise NotImplementedError

    def parse_batch_test(self, batch):
        raise NotImplementedError

    def forward_backward(self, batch):
        raise NotImplementedError

    def model_inference(self, input):
        raise NotImplementedError

    def model_zero_grad(self, names=None):
        for optim in filter(None, [self._optims[name] for name in self.get_model_names(names)]):
            optim.zero_grad()

    def model_backward(self, loss):
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        for optim in filter(None, [self._optims[name] for name in self.get_model_names(names)]):
            optim.step()

    def model_backward_and_update(self, loss, names=None):
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)


class SimpleTrainer(TrainerBase):
    def __init__(self, cfg):
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch, self.output_dir, self.cfg = cfg.OPTIM.MAX_EPOCH, cfg.OUTPUT_DIR, cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -float("inf")

    def check_cfg(self, cfg):
        pass

    def build_data_loader(self):
        self.dm = DataManager(self.cfg)
        for name in ("train_loader_x", "train_loader_u", "val_loader", "test_loader"):
            setattr(self, name, getattr(self.dm, name))
        for name in ("num_classes", "num_source_domains", "lab2cname"):
            setattr(self, name, getattr(self.dm, name))

    def build_model(self):
        raise NotImplementedError

    def train(self):
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def after_train(self):
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                self.load_model(self.output_dir)
            self.test()
        self.close_writer()

    def after_epoch(self):
        done, freq = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result, best = result, {"val_result": result, "model_name": "model-best.pth.tar"}
                self.save_model(self.epoch, self.output_dir, **best)
        if done == self.max_epoch or (freq > 0 and done % freq == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = "val" if (split or self.cfg.TEST.SPLIT) == "val" and self.val_loader else "test"
        print(f"Evaluate on the *{split}* set")
        for batch in self.val_loader if split == "val" else self.test_loader:
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return [*results.values()][0]

    def model_inference(self, input):
        return self.model(input)

    def parse_batch_test(self, batch):
        return [batch[key].to(self.device) for key in ("img", "label")]

    def get_current_lr(self, names=None):
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


class TrainerX(SimpleTrainer):
    def run_epoch(self):
        self.set_model_mode("train")
        losses = sys.modules["dassl.utils.meters"].MetricMeter()
        self.num_batches = len(self.train_loader_x)
        for number, batch in enumerate(self.train_loader_x):
            self.batch_idx = number
            losses.update(self.forward_backward(batch))
            if (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
                print(f"epoch [{self.epoch + 1}/{self.max_epoch}] {losses} lr {self.get_current_lr():.4e}")
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, self.epoch * self.num_batches + self.batch_idx)

    def parse_batch_train(self, batch):
        return [batch[key].to(self.device) for key in ("img", "label", "domain")]
