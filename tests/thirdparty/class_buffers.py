"""A trainer whose prompt learner holds buffers of its classes, and drops them when it loads weights."""

import os.path as osp

import torch
import torch.nn as nn
from torch.nn import functional as F

import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint


class Bias(nn.Module):
    """A learned shift of all text features."""

    def __init__(self, text):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(text.shape[1]))
        self.register_buffer("token_prefix", text)

    def forward(self):
        return F.normalize(self.token_prefix + self.shift, dim=-1)


@TRAINER_REGISTRY.register()
class ClassBuffers(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model, _ = clip.load(cfg.MODEL.BACKBONE.NAME, device="cpu")
        with torch.no_grad():
            text = clip_model.encode_text(clip.tokenize([f"a {name}." for name in self.dm.dataset.classnames]))
        self.clip = clip_model.to(self.device)
        self.model = Bias(F.normalize(text, dim=-1)).to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        output = self.model_inference(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def model_inference(self, input):
        with torch.no_grad():
            image = F.normalize(self.clip.encode_image(input), dim=-1)
        return self.clip.logit_scale.exp().detach() * image @ self.model().t()

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        names = self.get_model_names()
        model_file = "model-best.pth.tar"
        if epoch is not None:
            model_file = "model.pth.tar-" + str(epoch)
        for name in names:
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            if "token_prefix" in state_dict:
                del state_dict["token_prefix"]
            print(f'Loading weights to {name} from "{model_path}" (epoch = {checkpoint["epoch"]})')
            self._models[name].load_state_dict(state_dict, strict=False)
