"""A trainer by the habits of the CoOp family.

It loads CLIP by hand, calls the text transformer length-first and registers its prompt learner only.
"""

import torch
import torch.nn as nn
from torch.nn import functional as F

from clip import clip
from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_pretrained_weights

_tokenizer = _Tokenizer()


def clip_on_cpu(cfg):
    path = clip._download(clip._MODELS[cfg.MODEL.BACKBONE.NAME])
    try:
        state_dict = torch.jit.load(path, map_location="cpu").eval().state_dict()
    except RuntimeError:
        state_dict = torch.load(path, map_location="cpu")
    return clip.build_model(state_dict)


class TextTower(nn.Module):
    def __init__(self, clip_model):
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.dtype = clip_model.dtype

    def forward(self, prompts, tokens):
        x = prompts + self.positional_embedding.type(self.dtype)
        x = x.permute(1, 0, 2)
        x = self.transformer(x)
        x = x.permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(x.shape[0]), tokens.argmax(dim=-1)] @ self.text_projection


class Learner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        n_ctx, dtype = cfg.TRAINER.LENGTHFIRST.N_CTX, clip_model.dtype
        width = clip_model.ln_final.weight.shape[0]
        self.ctx = nn.Parameter(torch.empty(n_ctx, width, dtype=dtype).normal_(std=0.02))
        names = [name.replace("_", " ") for name in classnames]
        self.name_lens = [len(_tokenizer.encode(name)) for name in names]
        self.tokens = torch.cat([clip.tokenize(" ".join(["X"] * n_ctx) + " " + name + ".") for name in names])
        with torch.no_grad():
            embedded = clip_model.token_embedding(self.tokens).type(dtype)
        self.register_buffer("token_prefix", embedded[:, :1, :])
        self.register_buffer("token_suffix", embedded[:, 1 + n_ctx :, :])

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(len(self.tokens), -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class Prompted(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = Learner(cfg, classnames, clip_model)
        self.image_encoder = clip_model.visual
        self.text_encoder = TextTower(clip_model)
        self.logit_scale = clip_model.logit_scale
        self.dtype = clip_model.dtype

    def forward(self, image):
        image = F.normalize(self.image_encoder(image.type(self.dtype)), dim=-1)
        text = F.normalize(self.text_encoder(self.prompt_learner(), self.prompt_learner.tokens), dim=-1)
        return self.logit_scale.exp() * image @ text.t()


@TRAINER_REGISTRY.register()
class LengthFirst(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.LENGTHFIRST.PREC in ["fp16", "fp32"]

    def build_model(self):
        cfg = self.cfg
        clip_model = clip_on_cpu(cfg)
        if cfg.TRAINER.LENGTHFIRST.PREC == "fp32":
            clip_model.float()
        self.model = Prompted(cfg, self.dm.dataset.classnames, clip_model)
        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        if torch.cuda.device_count() > 1:
            self.model = nn.DataParallel(self.model)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)
