"""A trainer with mixed precision of its own: an adapter behind the image tower, and a GradScaler."""

import torch.nn as nn
from torch.cuda.amp import GradScaler, autocast
from torch.nn import functional as F

import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer


class Adapter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(width // 4, width)
        )

    def forward(self, x):
        return x + self.fc(x)


class Adapted(nn.Module):
    def __init__(self, clip_model, classnames):
        super().__init__()
        self.image_encoder = clip_model.visual
        self.logit_scale = clip_model.logit_scale
        self.adapter = Adapter(clip_model.visual.output_dim)
        text = clip_model.encode_text(clip.tokenize([f"a photo of a {name}." for name in classnames]))
        self.text = F.normalize(text.detach(), dim=-1)

    def forward(self, image):
        image = F.normalize(self.adapter(self.image_encoder(image)), dim=-1)
        return self.logit_scale.exp() * image @ self.text.to(image.device).t()


@TRAINER_REGISTRY.register()
class OwnScaler(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.OWNSCALER.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        clip_model, _ = clip.load(cfg.MODEL.BACKBONE.NAME, device="cpu")
        clip_model.float()
        self.model = Adapted(clip_model, self.dm.dataset.classnames)
        for name, param in self.model.named_parameters():
            if "adapter" not in name:
                param.requires_grad_(False)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.adapter, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("clip_adapter", self.model.adapter, self.optim, self.sched)
        self.scaler = GradScaler() if cfg.TRAINER.OWNSCALER.PREC == "amp" else None

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        if self.cfg.TRAINER.OWNSCALER.PREC == "amp":
            with autocast():
                output = self.model(image)
                loss = F.cross_entropy(output, label)
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        else:
            output = self.model(image)
            loss = F.cross_entropy(output, label)
            self.model_backward_and_update(loss)
        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return loss_summary
