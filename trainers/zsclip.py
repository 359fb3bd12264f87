"""Zero-shot CLIP: nothing is learned."""

import open_clip
import torch
import torch.nn.functional as F
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY, TrainerX
from sotglp import load_clip


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    """Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020"""

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.ZEROSHOTCLIP = CN()
        cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE = "a photo of a {}."  # {} is the class name

    def check_cfg(self, cfg):
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        if template.count("{}") != 1:
            raise ValueError(f"TRAINER.ZEROSHOTCLIP.TEMPLATE needs one {{}} for the class name: {template!r}")

    def build_model(self):
        cfg = self.cfg
        clip = load_clip(cfg.MODEL.BACKBONE.NAME).to(self.device)
        clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        prompts = [template.format(name.replace("_", " ")) for name in self.dm.dataset.classnames]
        print(f"Prompts: {prompts[0]!r} ... {prompts[-1]!r}")
        token_ids = open_clip.tokenize(prompts).to(self.device)
        self.model = clip
        with torch.no_grad():
            self.text = F.normalize(clip.encode_text(token_ids), dim=-1)

    def train(self):
        """There is nothing to train: test."""
        self.test()

    def model_inference(self, input):
        image = F.normalize(self.model.encode_image(input), dim=-1)
        return self.model.logit_scale.exp() * image @ self.text.T
