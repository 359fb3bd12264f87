"""CoOp (arXiv 2109.01134): learned context tokens beside the class names.

T learned vectors replace the words of a hand-written prompt such as "a photo of a". All classes share them, or each
class has its own (CSC). They learn by the cross-entropy of softmax(scale * cosine of image and prompt).

The published schedule, which most of the methods here share, counts the cosine anew after the warm-up epoch: it starts
at its full value there, has the length of all epochs, and so never reaches 0.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP, Prompts
from sotglp.prompts import start_contexts
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class CoOp(CLIPTrainer):
    """Learning to Prompt for Vision-Language Models, https://arxiv.org/abs/2109.01134"""

    NODE = "COOP"
    DEFAULTS = dict(
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CSC=False,  # class-specific: each class has its own context
        CTX_INIT="",  # words that the context starts from; random if empty
        CLASS_TOKEN_POSITION="end",  # where the class name stands: end, middle or front
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N_CTX": "[1, inf)"}

    def make_model(self, clip, names):
        node = self.node
        context = start_contexts(clip, len(names) if node.CSC else 1, node.N_CTX, node.CTX_INIT)
        if node.CSC:
            context = context.unsqueeze(1)  # (C, 1, T, W)
        return PromptedCLIP(clip, Prompts(clip, names, context, "{}.", position=node.CLASS_TOKEN_POSITION))
