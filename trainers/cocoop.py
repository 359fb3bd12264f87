"""CoCoOp: a context that depends on the image."""

import torch
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompted import Similarities
from sotglp.trainer import CLIPTrainer

PROMPTS_AT_A_TIME = 1000  # of all images and classes; bounds the memory


class ConditionalCLIP(PromptedCLIP):
    """Prompts whose context tokens are all moved by what a two-layer network makes of the image feature."""

    def __init__(self, clip, prompts):
        joint, width = clip.text_projection.shape[1], clip.token_embedding.weight.shape[1]
        layers = nn.Linear(joint, joint // 16), nn.ReLU(), nn.Linear(joint // 16, width)
        super().__init__(clip, nn.ModuleDict({"prompts": prompts, "meta_net": nn.Sequential(*layers)}))

    def encode_text(self):
        """None: there is no text without an image."""

    def match(self, features, text=None):
        image = self.to_joint(features[0])  # (B, D)
        contexts = self.learned["prompts"].context + self.learned["meta_net"](image)[:, None]  # (B, T, W)
        size = max(PROMPTS_AT_A_TIME // len(self.learned["prompts"].eot), 1)
        g = []
        for images, context in zip(image.split(size), contexts.split(size), strict=True):
            text = self.learned["prompts"](self.clip, context)  # (C, B, D): a prompt for each image
            g.append(torch.einsum("bd,cbd->bc", images, text))
        return Similarities(torch.cat(g).unsqueeze(-1), None)


@TRAINER_REGISTRY.register()
class CoCoOp(CLIPTrainer):
    """Conditional Prompt Learning for Vision-Language Models, https://arxiv.org/abs/2203.05557"""

    NODE = "COCOOP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.COCOOP = node = CN()
        node.N_CTX = 4  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = "a photo of a"  # words that the context starts from; random if empty
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        return ConditionalCLIP(clip, self.shared_prompts(clip, names))
