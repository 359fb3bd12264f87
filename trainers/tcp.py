"""TCP (arXiv 2311.18231): class-aware tokens replace a learned context inside the text tower.

A two-layer network maps a class's zero-shot text feature a_c to four tokens, whatever the context's length. Before
block BLOCK they replace the four tokens after the SOT. loss = CE + W * mean over classes of (1 - cos(t_c, a_c)), with
the resulting text features t_c. The learned prompt ends like the data set's template: "X X X X cat, a type of pet."
"""

from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import CLIP
from sotglp.prompted import AnchoredCLIP, anchor_distance
from sotglp.toolbox.trainer import CLIPTrainer
from sotglp.towers import QuickGELU

CLASS_TOKENS = 4
# What follows the learned context; elsewhere the name and the end of the data set's template.
LEARNED = {
    "StanfordCars": "{}, a type of car",  # without a full stop
    "DescribableTextures": "{} texture.",
    "UCF101": "person doing {}.",
}


class ClassAwarePrompts(nn.Module):
    """Prompts whose context is replaced, before a block, by tokens of a two-layer network.

    Args:
        prompts: shared by the classes.
        knowledge: normalised zero-shot text features (C, D), which the network maps to tokens.
        block: of the text tower, from 0.
    """

    def __init__(self, prompts, knowledge, block):
        super().__init__()
        joint, width = knowledge.shape[1], prompts.context.shape[-1]
        layers = nn.Linear(joint, joint // 4), QuickGELU(), nn.Linear(joint // 4, CLASS_TOKENS * width)
        self.prompts, self.embedding, self.block = prompts, nn.Sequential(*layers), block
        self.register_buffer("knowledge", knowledge, persistent=False)

    def class_tokens(self):
        """Return the tokens (C, 4, W) of the classes."""
        return self.embedding(self.knowledge).unflatten(-1, (CLASS_TOKENS, -1))

    def forward(self, clip):
        """Return normalised text features (C, 1, D)."""
        return self.prompts(clip, deep={self.block: self.class_tokens()})


@TRAINER_REGISTRY.register()
class TCP(CLIPTrainer):
    """TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model, https://arxiv.org/abs/2311.18231"""

    NODE = "TCP"
    BACKBONE = CLIP
    DEFAULTS = dict(
        N_CTX=4,  # context tokens, at least four, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the context starts from; random if empty
        BLOCK=8,  # of the text tower, from 0; class-aware tokens take the context's places before it
        W=8.0,  # weight of the distance to the text features of the hand-written prompts
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    TEMPLATES = {
        "FGVCAircraft": "a photo of an aircraft {}.",
        "DescribableTextures": "a photo of a {}, a type of texture.",
        "Food101": "a photo of a {}, a type of food.",
    }
    RANGES = {"N_CTX": f"[{CLASS_TOKENS}, inf)", "BLOCK": "[0, inf)", "W": "[0, inf)"}

    def make_model(self, clip, names):
        blocks = len(clip.transformer.resblocks)
        if self.node.BLOCK >= blocks:
            raise ValueError(
                f"TRAINER.TCP.BLOCK must be 0 to {blocks - 1}, a block of the text tower: {self.node.BLOCK}"
            )
        anchor = self.zero_shot_text(clip, names)
        learned = LEARNED.get(self.cfg.DATASET.NAME, "{}" + self.templates[0].partition("{}")[2])
        prompts = self.shared_prompts(clip, names, template=learned)
        return AnchoredCLIP(clip, ClassAwarePrompts(prompts, anchor, self.node.BLOCK), anchor)

    def losses(self, match, targets, text):
        return {**super().losses(match, targets, text), "kg": self.node.W * anchor_distance(text)}
