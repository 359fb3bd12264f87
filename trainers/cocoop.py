"""CoCoOp (arXiv 2203.05557): a learned context that depends on the image.

A two-layer network h (the meta-net) maps the feature x of an image to a shift of all context tokens:
v_t(x) = v_t + h(x). Each image has its own prompts, which costs one text encoding for each image and class.
"""

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompted import Similarities
from sotglp.toolbox.trainer import CLIPTrainer

PROMPTS_AT_A_TIME = 1000  # of images times classes; bounds the memory


class ConditionalCLIP(PromptedCLIP):
    """Shared prompts whose context tokens are all shifted by the meta-net's output for an image."""

    def __init__(self, clip, prompts):
        joint, width = clip.embed_dim, clip.token_embedding.weight.shape[1]
        layers = nn.Linear(joint, joint // 16), nn.ReLU(), nn.Linear(joint // 16, width)
        super().__init__(clip, nn.ModuleDict({"prompts": prompts, "meta_net": nn.Sequential(*layers)}))

    def encode_text(self):
        """Return None: there is no text without an image."""

    def contexts(self, image):
        """Return the contexts (B, T, W) of normalised image features (B, D)."""
        return self.learned["prompts"].context + self.learned["meta_net"](image)[:, None]

    def match(self, features, text=None):
        """Return the Similarities of images with their own prompts, g (B, C, 1)."""
        image = self.to_joint(features[0])  # (B, D)
        contexts = self.contexts(image)
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
    DEFAULTS = dict(
        N_CTX=4,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="a photo of a",  # words that the context starts from; random if empty
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N_CTX": "[1, inf)"}

    def make_model(self, clip, names):
        return ConditionalCLIP(clip, self.shared_prompts(clip, names))
