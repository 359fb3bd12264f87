"""SOT-GLP as a trainer of the toolbox. The method itself is ``sotglp.model``."""

from collections import defaultdict

import torch
from yacs.config import CfgNode as CN

import sotglp
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from sotglp.precision import MixedPrecision


@TRAINER_REGISTRY.register()
class SOTGLP(TrainerX):
    """Local-Global Prompt Learning via Sparse Optimal Transport.

    https://arxiv.org/abs/2603.08347 (Digital Signal Processing 180, 2026)
    """

    @staticmethod
    def extend_cfg(cfg):
        """The method's own settings, with the paper's values."""
        cfg.TRAINER.SOTGLP = node = CN()
        node.N_GLOBAL = 3  # G, prompts shared by all classes
        node.N_LOCAL = 4  # N, prompts of each class
        node.CTX_INIT = "A photo of a"  # words that a context starts from; their number is T
        node.LOCAL_INIT = "xavier"  # how local contexts start: xavier or orthogonal
        node.TOPK = 10  # K, patches in a class's support
        node.EPS = 0.1  # entropic regularisation of the transport
        node.PROJECTION = True  # a learned matrix on the patch tokens; False is the projection-free variant
        node.PROMPT_DROPOUT = 0.75  # share of the global prompts left out for each training image
        node.PREC = "amp"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        sotglp.kept_prompts(cfg.TRAINER.SOTGLP.N_GLOBAL, cfg.TRAINER.SOTGLP.PROMPT_DROPOUT)

    def build_model(self):
        cfg, node = self.cfg, self.cfg.TRAINER.SOTGLP
        self.precision = MixedPrecision(node.PREC, self.device)
        self.scaler = self.precision.scaler  # the toolbox saves its state with the checkpoints
        clip = sotglp.load_clip(cfg.MODEL.BACKBONE.NAME)
        clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        self.model = sotglp.SOTGLP(
            clip,
            [name.replace("_", " ") for name in self.dm.dataset.classnames],
            n_global=node.N_GLOBAL,
            n_local=node.N_LOCAL,
            context=node.CTX_INIT,
            topk=node.TOPK,
            eps=node.EPS,
            projection=node.PROJECTION,
            local_init=node.LOCAL_INIT,
        ).to(self.device)
        self.text, self.predicted = None, defaultdict(list)
        self.optim = build_optimizer(self.model.learned, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.learned, self.optim, self.sched)

    def forward_backward(self, batch):
        images, targets = self.parse_batch_train(batch)[:2]
        node = self.cfg.TRAINER.SOTGLP
        drawn = sotglp.draw_prompts(len(images), node.N_GLOBAL, node.PROMPT_DROPOUT, self.device)
        with self.precision.autocast():
            match = self.model(images)  # V-V patches, their sparse support per class, the plan on it
            loss_global, loss_local = sotglp.sotglp_loss(match, targets, self.model.logit_scale, drawn)
        loss = loss_global + loss_local
        self.detect_anomaly(loss)
        self.precision.backward_and_step(loss, self.optim)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        with torch.no_grad():
            combined = sotglp.predict(match, self.model.logit_scale).combined
        return {
            "loss": loss.item(),
            "loss_global": loss_global.item(),
            "loss_local": loss_local.item(),
            "acc": compute_accuracy(combined, targets)[0].item(),
        }

    def model_inference(self, input):
        with self.precision.autocast():
            match = self.model(input, self.text)
        prediction = sotglp.predict(match, self.model.logit_scale)
        self.predicted["global"] += prediction.global_.argmax(dim=1).tolist()
        self.predicted["local"] += prediction.local.argmax(dim=1).tolist()
        return prediction.combined

    @torch.no_grad()
    def test(self, split=None):
        """Accuracy of the combined prediction; those of each branch alone are printed and join the results."""
        self.predicted.clear()
        self.results = {}
        with self.precision.autocast():
            self.text = self.model.encode_text()  # once for all images
        accuracy = super().test(split)
        self.text = None
        truth = self.evaluator._y_true
        for branch, predicted in self.predicted.items():
            alone = 100.0 * sum(a == b for a, b in zip(predicted, truth, strict=True)) / len(truth)
            print(f"* {branch} branch alone: {alone:.2f}%")
            self.results[f"accuracy_{branch}"] = alone
        return accuracy
