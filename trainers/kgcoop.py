"""KgCoOp (arXiv 2303.13283): a learned context held near a hand-written one.

loss = CE + W * mean over classes of (1 - cos(t_c, a_c)), with the text features t_c of the learned prompts and a_c of
the data set's hand-written ones. The paper writes |t_c - a_c|^2, which is twice that; this is what its authors ran.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import AnchoredCLIP, anchor_distance
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class KgCoOp(CLIPTrainer):
    """Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, https://arxiv.org/abs/2303.13283"""

    NODE = "KGCOOP"
    DEFAULTS = dict(
        N_CTX=4,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="a photo of a",  # words that the context starts from; random if empty
        W=8.0,  # weight of the distance to the text features of the hand-written prompts
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}
    RANGES = {"N_CTX": "[1, inf)", "W": "[0, inf)"}

    def make_model(self, clip, names):
        return AnchoredCLIP(clip, self.shared_prompts(clip, names), self.zero_shot_text(clip, names))

    def losses(self, match, targets, text):
        return {**super().losses(match, targets, text), "kg": self.node.W * anchor_distance(text)}
