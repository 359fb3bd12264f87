"""Zero-shot CLIP: nothing is learned."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompts import FixedText, encode_names
from sotglp.templates import ENSEMBLE, template_of
from sotglp.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """Learning Transferable Visual Models From Natural Language Supervision, https://arxiv.org/abs/2103.00020"""

    NODE = "ZEROSHOTCLIP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.ZEROSHOTCLIP = node = CN()
        node.TEMPLATE = ""  # {} is the class name; the data set's own if empty
        node.PREC = "fp32"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        template = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE
        if template and template.count("{}") != 1:
            raise ValueError(f"TRAINER.ZEROSHOTCLIP.TEMPLATE needs one {{}} for the class name: {template!r}")

    def templates(self):
        return [self.node.TEMPLATE or template_of(self.cfg.DATASET.NAME)]

    def make_model(self, clip, names):
        templates = self.templates()
        print(f"Prompts: {templates[0].format(names[0])!r} ... {templates[-1].format(names[-1])!r}")
        return PromptedCLIP(clip, FixedText(encode_names(clip, names, templates)))

    def train(self):
        """There is nothing to train: test."""
        self.test()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """ZeroshotCLIP with an ensemble of templates: seven of CLIP's and the data set's own."""

    def templates(self):
        return [*ENSEMBLE, *super().templates()]
