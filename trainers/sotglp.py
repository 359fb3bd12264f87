"""SOT-GLP as a trainer of the toolbox. The method itself is ``sotglp.model``."""

from yacs.config import CfgNode as CN

import sotglp
from dassl.engine import TRAINER_REGISTRY
from sotglp.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class SOTGLP(CLIPTrainer):
    """Local-Global Prompt Learning via Sparse Optimal Transport.

    https://arxiv.org/abs/2603.08347 (Digital Signal Processing 180, 2026)
    """

    NODE = "SOTGLP"

    @staticmethod
    def extend_cfg(cfg):
        """The method's own settings, with the paper's values."""
        cfg.TRAINER.SOTGLP = node = CN()
        node.N_GLOBAL = 3  # G, prompts shared by all classes; 0 leaves the branch out
        node.N_LOCAL = 4  # N, prompts of each class; 0 leaves the branch out
        node.CTX_INIT = "A photo of a"  # words that a context starts from; their number is T
        node.LOCAL_INIT = "xavier"  # how local contexts start: xavier or orthogonal
        node.PATCHES = "vv"  # stream of the patch tokens: vv, last or value
        node.TOPK = 10  # K, patches in a class's support; 0 takes all
        node.SUPPORT = "shared"  # by all prompts of a class, or own: each prompt chooses its K patches
        node.TRANSPORT = "balanced"  # how patches are shared out: balanced, unbalanced, or mean (evenly)
        node.EPS = 0.1  # entropic regularisation of the transport
        node.PROJECTION = True  # a learned matrix on the patch tokens; False is the projection-free variant
        node.PROMPT_DROPOUT = 0.75  # share of the global prompts left out for each training image
        node.PREC = "amp"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        sotglp.kept_prompts(cfg.TRAINER.SOTGLP.N_GLOBAL, cfg.TRAINER.SOTGLP.PROMPT_DROPOUT)

    def settings_for_new_classes(self):
        """The global prompts alone, which no class has of its own."""
        return {"N_LOCAL": 0} if self.node.N_GLOBAL else None

    def make_model(self, clip, names):
        node = self.node
        return sotglp.SOTGLP(
            clip,
            names,
            n_global=node.N_GLOBAL,
            n_local=node.N_LOCAL,
            context=node.CTX_INIT,
            topk=node.TOPK,
            eps=node.EPS,
            projection=node.PROJECTION,
            local_init=node.LOCAL_INIT,
            local=node.PATCHES,
            support=node.SUPPORT,
            plan=node.TRANSPORT,
        )

    def losses(self, match, targets, text):
        drawn = sotglp.draw_prompts(len(targets), self.node.N_GLOBAL, self.node.PROMPT_DROPOUT, self.device)
        loss_global, loss_local = sotglp.sotglp_loss(match, targets, self.model.logit_scale, drawn)
        return {"global": loss_global, "local": loss_local}

    def scores(self, match):
        return sotglp.predict(match, self.model.logit_scale).combined

    def branches(self, match):
        prediction = sotglp.predict(match, self.model.logit_scale)
        alone = {"global": prediction.global_, "local": prediction.local}
        return {name: scores for name, scores in alone.items() if scores is not None}

    def probabilities(self, match):
        return {"combined": self.scores(match), **self.branches(match)}
