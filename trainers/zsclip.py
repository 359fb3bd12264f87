"""Zero-shot CLIP (arXiv 2103.00020): nothing is learned.

The prediction is softmax(scale * cosine of image and prompt), with a hand-written prompt such as "a photo of a {}." for
each class. The ensemble averages the text features of several prompts.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompts import FixedText, encode_names
from sotglp.templates import ENSEMBLE, template_of
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020"""

    NODE = "ZEROSHOTCLIP"
    DEFAULTS = dict(
        TEMPLATE="",  # prompt with {} for the class name; the data set's own if empty
        PREC="fp32",  # fp32, amp or fp16
    )

    def check_cfg(self, cfg):
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        if template and template.count("{}") != 1:
            raise ValueError(f"TRAINER.ZEROSHOTCLIP.TEMPLATE needs one {{}} for the class name: {template!r}")

    def templates(self):
        """Return the templates whose text features are averaged."""
        return [self.node.TEMPLATE or template_of(self.cfg.DATASET.NAME)]

    def make_model(self, clip, names):
        templates = self.templates()
        print(f"Prompts: {templates[0].format(names[0])!r} ... {templates[-1].format(names[-1])!r}")
        return PromptedCLIP(clip, FixedText(encode_names(clip, names, templates)))

    def train(self):
        """Only test, as there is nothing to train."""
        self.test()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """ZeroshotCLIP with an ensemble of templates: seven of CLIP's and the data set's own."""

    def templates(self):
        return [*ENSEMBLE, *super().templates()]
