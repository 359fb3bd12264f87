"""Zero-shot CLIP (arXiv 2103.00020): nothing is learned.

The prediction is softmax(scale * cosine of image and prompt), with a hand-written prompt such as "a photo of a {}." for
each class. The ensemble averages the text features of several prompts.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompts import FixedText
from sotglp.templates import ENSEMBLE
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020"""

    NODE = "ZEROSHOTCLIP"
    DEFAULTS = dict(
        TEMPLATE="",  # prompt with {} for the class name; the data set's own if empty
        PREC="fp32",  # fp32, amp, fp16 or bf16
    )

    def check_cfg(self, cfg):
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        if template and template.count("{}") != 1:
            raise ValueError(f"TRAINER.ZEROSHOTCLIP.TEMPLATE needs one {{}} for the class name: {template!r}")

    @property
    def templates(self):
        return [self.node.TEMPLATE] if self.node.TEMPLATE else super().templates

    def make_model(self, clip, names):
        print(f"Prompts: {self.templates[0].format(names[0])!r} ... {self.templates[-1].format(names[-1])!r}")
        return PromptedCLIP(clip, FixedText(self.zero_shot_text(clip, names)))

    def train(self):
        """Only test, as there is nothing to train."""
        self.test()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """ZeroshotCLIP with an ensemble of templates: seven of CLIP's and the data set's own."""

    @property
    def templates(self):
        return [*ENSEMBLE, *super().templates]
