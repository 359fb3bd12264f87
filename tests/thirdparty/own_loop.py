"""A trainer with a loop over batches and an optimizer of its own, and weight averages at the end of each epoch."""

import datetime
import time

import torch
import torch.nn as nn
from torch.nn import functional as F

import clip
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.trainer import AverageMeter, MetricMeter, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim.radam import RAdam


@TRAINER_REGISTRY.register()
class OwnLoop(TrainerX):
    def build_model(self):
        clip_model, _ = clip.load(self.cfg.MODEL.BACKBONE.NAME, device="cpu")
        self.clip = clip_model.eval().to(self.device)
        for param in self.clip.parameters():
            param.requires_grad_(False)
        self.model = nn.Linear(clip_model.visual.output_dim, self.num_classes).to(self.device)
        groups = [{"params": [self.model.weight], "lr": self.cfg.OPTIM.LR}, {"params": [self.model.bias], "lr": 1e-3}]
        self.optim = RAdam(groups, betas=(self.cfg.OPTIM.ADAM_BETA1, 0.99))
        self.sched = torch.optim.lr_scheduler.CosineAnnealingLR(self.optim, float(self.cfg.OPTIM.MAX_EPOCH))
        self.register_model("adapter", self.model, self.optim, self.sched)

    def run_epoch(self):
        self.set_model_mode("train")
        losses = MetricMeter()
        batch_time = AverageMeter()
        self.num_batches = len(self.train_loader_x)
        end = time.time()
        for self.batch_idx, batch in enumerate(self.train_loader_x):  # noqa: B020
            loss_summary = self.forward_backward(batch)
            batch_time.update(time.time() - end)
            losses.update(loss_summary)
            if (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
                left = (self.max_epoch - self.epoch - 1) * self.num_batches
                eta = str(datetime.timedelta(seconds=int(batch_time.avg * left)))
                print(f"epoch [{self.epoch + 1}/{self.max_epoch}] {losses} lr {self.get_current_lr():.4e} eta {eta}")
            n_iter = self.epoch * self.num_batches + self.batch_idx
            for name, meter in losses.meters.items():
                self.write_scalar("train/" + name, meter.avg, n_iter)
            end = time.time()
        self.update_lr()

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model_inference(image)
        loss = F.cross_entropy(output, label)
        self.model_zero_grad()
        self.model_backward(loss)
        self.model_update()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_inference(self, input):
        with torch.no_grad():
            features = self.clip.encode_image(input)
        return self.model(100.0 * F.normalize(features, dim=-1))
