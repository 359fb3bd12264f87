"""CoOp: a learned context in front of the class names."""

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from sotglp import Prompts, context_from_text, load_clip
from sotglp.matching import similarities
from sotglp.precision import MixedPrecision


class PromptedCLIP(nn.Module):
    """A frozen CLIP that classifies images by one prompt per class."""

    def __init__(self, clip, prompts):
        super().__init__()
        self.clip = clip
        self.prompt_learner = prompts

    def forward(self, images, text=None):
        """images (B, 3, S, S) -> logits (B, C). ``text`` (C, 1, D) spares encoding the prompts again."""
        text = self.encode_text() if text is None else text
        image = F.normalize(self.clip.encode_image(images), dim=-1)
        return self.clip.logit_scale.exp() * similarities(image, text).squeeze(-1)

    def encode_text(self):
        return self.prompt_learner(self.clip)


@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    """Context Optimization.

    Learning to Prompt for Vision-Language Models, https://arxiv.org/abs/2109.01134
    """

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.COOP = node = CN()
        node.N_CTX = 16  # context tokens, unless CTX_INIT gives the words
        node.CSC = False  # a context of each class's own
        node.CTX_INIT = ""  # words that the context starts from; random if empty
        node.CLASS_TOKEN_POSITION = "end"  # end, middle or front
        node.PREC = "fp16"  # fp32, amp or fp16

    def build_model(self):
        cfg, node = self.cfg, self.cfg.TRAINER.COOP
        self.precision = MixedPrecision(node.PREC, self.device)
        self.scaler = self.precision.scaler  # the toolbox saves its state with the checkpoints
        clip = load_clip(cfg.MODEL.BACKBONE.NAME)
        clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        names = [name.replace("_", " ") + "." for name in self.dm.dataset.classnames]
        shape = (len(names), 1) if node.CSC else (1,)
        if node.CTX_INIT:
            words = context_from_text(clip, node.CTX_INIT.replace("_", " "))
            context = words.expand(*shape, *words.shape)
        else:
            context = 0.02 * torch.randn(*shape, node.N_CTX, clip.token_embedding.weight.shape[1])
        prompts = Prompts(clip, names, context, node.CLASS_TOKEN_POSITION)
        self.model = PromptedCLIP(clip, prompts).to(self.device)
        self.text = None
        self.optim = build_optimizer(prompts, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", prompts, self.optim, self.sched)

    def forward_backward(self, batch):
        images, targets = self.parse_batch_train(batch)[:2]
        with self.precision.autocast():
            logits = self.model(images)
            loss = F.cross_entropy(logits, targets)
        self.detect_anomaly(loss)
        self.precision.backward_and_step(loss, self.optim)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, targets)[0].item()}

    def model_inference(self, input):
        with self.precision.autocast():
            return self.model(input, self.text)

    @torch.no_grad()
    def test(self, split=None):
        with self.precision.autocast():
            self.text = self.model.encode_text()  # once for all images
        accuracy = super().test(split)
        self.text = None
        return accuracy
