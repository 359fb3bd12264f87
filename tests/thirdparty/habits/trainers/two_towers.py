"""A trainer with a model for each tower, each with its own optimizer, on a CLIP in half precision."""

import os.path as osp

import torch
import torch.nn as nn
from torch.nn import functional as F

from clip import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint

from .views import ViewsManager


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        init = cfg.TRAINER.TWOTOWERS.CTX_INIT
        words = clip_model.token_embedding(clip.tokenize([init]))[0].detach()
        self.ctx = nn.Parameter(words.mean(dim=0, keepdim=True).repeat(cfg.TRAINER.TWOTOWERS.N_CTX, 1))
        names = clip_model.token_embedding(clip.tokenize([name.replace("_", " ") for name in classnames]))
        self.register_buffer("token_suffix", names.detach())

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(len(self.token_suffix), -1, -1)
        return torch.cat([ctx, self.token_suffix], dim=1)


class Adapter(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, width, bias=False))
        nn.init.zeros_(self.fc[1].weight)

    def forward(self, x):
        return x + self.fc(x)


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = PromptLearner(cfg, classnames, clip_model)
        self.adapter = Adapter(clip_model.conv1.out_channels, cfg.TRAINER.TWOTOWERS.DROPOUT).type(clip_model.dtype)
        self.clip = clip_model

    def forward(self, image):
        image = F.normalize(self.adapter(self.clip.encode_image(image)), dim=-1)
        text = F.normalize(self.clip.transformer(self.prompt_learner()).mean(dim=1), dim=-1)
        return self.clip.logit_scale.exp() * image @ text.t()


@TRAINER_REGISTRY.register()
class TwoTowers(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.TWOTOWERS.PREC in ["fp16", "fp32", "amp"]

    def build_data_loader(self):
        dm = ViewsManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_views = dm.train_loader_views
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self):
        cfg = self.cfg
        clip_model, _ = clip.load(cfg.MODEL.BACKBONE.NAME)
        if cfg.TRAINER.TWOTOWERS.PREC != "fp16":
            clip_model.float()
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, clip_model)
        for param in self.model.clip.parameters():
            param.requires_grad_(False)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        self.optim_adapter = build_optimizer(None, cfg.OPTIM, param_groups=list(self.model.adapter.parameters()))
        self.sched_adapter = build_lr_scheduler(self.optim_adapter, cfg.OPTIM)
        self.register_model("adapter", self.model.adapter, self.optim_adapter, self.sched_adapter)
        self.register_model("clip", self.model.clip)  # frozen: without an optimizer

    def before_epoch(self):
        self.views = iter(self.train_loader_views)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        views = next(self.views)
        extra = self.model(views["flipped"].to(self.device))
        loss = F.cross_entropy(output, label) + 0.1 * F.cross_entropy(extra, views["label"].to(self.device))
        self.model_backward_and_update(loss, names=["prompt_learner", "adapter"])
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr(["prompt_learner", "adapter"])
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        model_file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            checkpoint = load_checkpoint(osp.join(directory, name, model_file))
            state_dict = checkpoint["state_dict"]
            state_dict.pop("token_suffix", None)  # of the classes of training
            print(f"Loading weights to {name} from {directory} (epoch = {checkpoint['epoch']})")
            self._models[name].load_state_dict(state_dict, strict=False)
