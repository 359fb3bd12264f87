"""A trainer that registers the whole CLIP and finds what it learns by its name."""

import torch
import torch.nn as nn
from torch.nn import functional as F

import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import count_num_param


class Tokens(nn.Module):
    """CLIP with learned tokens beside the patches of its image tower."""

    def __init__(self, clip_model, classnames, n_tokens):
        super().__init__()
        self.clip = clip_model
        self.VPT = nn.Parameter(0.02 * torch.randn(n_tokens, clip_model.visual.transformer.width))
        self.register_buffer("text", clip.tokenize([f"a photo of a {name}." for name in classnames]), persistent=False)

    def encode_image(self, image):
        visual = self.clip.visual
        x = visual.conv1(image.type(self.clip.dtype))
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        x = torch.cat([visual.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + visual.positional_embedding
        x = torch.cat([x, self.VPT.expand(x.shape[0], -1, -1)], dim=1)
        x = visual.transformer(visual.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)
        return visual.ln_post(x[:, 0, :]) @ visual.proj

    def forward(self, image, label=None):
        image = F.normalize(self.encode_image(image), dim=-1)
        text = F.normalize(self.clip.encode_text(self.text), dim=-1)
        logits = self.clip.logit_scale.exp() * image @ text.t()
        if self.training:
            return F.cross_entropy(logits, label), logits
        return logits


@TRAINER_REGISTRY.register()
class WholeCLIP(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model, _ = clip.load(cfg.MODEL.BACKBONE.NAME, device="cpu")
        self.model = Tokens(clip_model, self.dm.dataset.classnames, cfg.TRAINER.WHOLECLIP.N_TOKENS)
        for name, param in self.model.named_parameters():
            param.requires_grad_("VPT" in name)
        enabled = {name for name, param in self.model.named_parameters() if param.requires_grad}
        print(f"Parameters to be updated: {enabled} of {count_num_param(self.model):,}")
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("VLPromptLearner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        loss, output = self.model(image, label)
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label, topk=(1, 2))[0].item()}
