"""PLOT++, the authors' PLOT for vision transformers (arXiv 2210.01253, github.com/CHENGY12/PLOT).

N text prompts, each from words of its own, meet M image features: M vision prompts of N_CTX_V tokens, each appended to
the patches in a pass of its own. A plan shares the M features out among the N prompts as in PLOT.

Training has two stages, each half of the epochs with a schedule of its own: first the vision prompts alone, with the
cosine of the pooled features added to the score; then all prompts, without it. Pooled features are means of features
that are not normalised yet. Every text prompt has as many context tokens as the first has words. Further words stay
fixed; a shorter text's context also takes the first token of the class name, as in the authors' code.
"""

import torch
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from dassl.optim import build_optimizer
from sotglp import CLIP
from sotglp.deep import random_prompts
from sotglp.prompts import Prompts, start_contexts
from trainers.plot import TransportCLIP, TransportTrainer

# Words of the four text prompts, by data set.
WORDS = {
    "ImageNet": ["a photo of a", "this is a photo", "this is a", "one picture of a"],
    "Caltech101": ["a photo of a", "this is a photo", "this is picture of", "one picture of a"],
    "OxfordPets": ["a photo of a pet", "one picture of a pet", "this is pet picture of", "one picture of a pet"],
    "StanfordCars": ["a photo of a", "this is a photo", "this is picture of", "one picture of a"],
    "OxfordFlowers": [
        "a photo of a flower",
        "one picture of a flower",
        "this is flower picture of",
        "one picture of a flower",
    ],
    "Food101": ["a photo of a food", "this is a food photo", "this is food picture of", "one picture of a food"],
    "FGVCAircraft": [
        "a photo of an aircraft",
        "a picture of an aircraft",
        "this is aircraft picture of",
        "one picture of an aircraft",
    ],
    "SUN397": ["a photo of a", "this is a photo", "this is picture of", "one picture of a"],
    "DescribableTextures": [
        "a photo of a texture",
        "this is a photo texture",
        "this is a picture texture",
        "one picture of a texture",
    ],
    "EuroSAT": [
        "a centered satellite photo of",
        "a centered satellite picture of",
        "this is centered satellite photo of",
        "one centered satellite photo of a",
    ],
    "UCF101": [
        "a photo of a person doing",
        "this is a photo people doing",
        "this is picture of people doing",
        "one picture of a person doing",
    ],
}


class PromptPairs(nn.Module):
    """N text prompts, each with fixed words of its own, and M vision prompts.

    Args:
        text: list of N Prompts.
        vision: (M, tokens, W) of the image tower.

    Attributes:
        joint: whether the second stage has begun; checkpoints hold it.
    """

    def __init__(self, text, vision):
        super().__init__()
        self.text, self.vision = nn.ModuleList(text), vision
        self.register_buffer("joint", torch.tensor(False))

    def encode(self, clip):
        """Return text features (C, N, D), before normalisation."""
        return torch.cat([prompts.encode(clip) for prompts in self.text], dim=1)


class PairedCLIP(TransportCLIP):
    """N text prompts of each class and M features of an image."""

    frozen_images = False

    @property
    def pooled(self):
        """Whether the cosine of the pooled features is added: in the first stage."""
        return not self.learned.joint

    def features(self, images):
        """Return the mean (B, W) of an image's M class tokens, and these (B, M, W)."""
        embedded = self.clip.visual.embed(images)
        tokens = [
            self.clip.visual.encode(torch.cat([embedded, prompt.expand(len(images), -1, -1)], dim=1))[0]
            for prompt in self.learned.vision
        ]
        tokens = torch.stack(tokens, dim=1)
        return tokens.mean(dim=1), tokens

    def match(self, features, text):
        """Return the Match of ``features``, which are of whole images: s of patches is None."""
        return super().match(features, text)._replace(s=None)


@TRAINER_REGISTRY.register()
class PLOTPP(TransportTrainer):
    """Prompt Learning with Optimal Transport for Vision-Language Models, https://arxiv.org/abs/2210.01253"""

    NODE = "PLOTPP"
    BACKBONE = CLIP
    DEFAULTS = dict(
        **TransportTrainer.DEFAULTS,
        M=4,  # vision prompts
        N_CTX=4,  # context tokens without words
        N_CTX_V=2,  # tokens of a vision prompt
        CTX_INIT=True,  # the contexts start from the data set's words, at random if False
    )
    RANGES = {**TransportTrainer.RANGES, **{key: "[1, inf)" for key in ("M", "N_CTX", "N_CTX_V")}}

    def make_model(self, clip, names):
        node = self.node
        text = self.text_prompts(clip, names)
        vision = random_prompts(node.M, node.N_CTX_V, len(clip.visual.proj))
        return PairedCLIP(clip, PromptPairs(text, vision), node.EPS, node.THRESHOLD, node.MAX_ITER, local=None)

    def text_prompts(self, clip, names):
        """Return N Prompts, one prompt each."""
        if not self.node.CTX_INIT:
            contexts = start_contexts(clip, self.node.N, self.node.N_CTX)
            return [Prompts(clip, names, context[None], "{}.") for context in contexts]
        tokenizer, words, prompts = clip.tokenizer, self.words(), []
        length = len(words[0].split())
        for text in words:
            ids = [*tokenizer.encode(text), *tokenizer.end, *[tokenizer.padding] * length][:length]
            context = clip.token_embedding.weight[ids]
            prompts.append(Prompts(clip, names, context[None], f"{text} {{}}.", replaced=length))
        return prompts

    def words(self):
        """Return the words of the N prompts: the data set's, or else Caltech101's, again from the first if N > 4."""
        words = WORDS.get(self.cfg.DATASET.NAME, WORDS["Caltech101"])
        return [words[n % len(words)] for n in range(self.node.N)]

    @property
    def schedule_epochs(self):
        return self.cfg.OPTIM.MAX_EPOCH - self.cfg.OPTIM.MAX_EPOCH // 2

    def choose_stage(self, epoch):
        """Train the vision prompts alone in the first half of the epochs, then all prompts with a new optimizer."""
        learned = self.model.learned
        if epoch >= self.max_epoch // 2 and not learned.joint:
            learned.joint.fill_(True)
            self.optim = self._optims["prompt_learner"] = build_optimizer(learned, self.cfg.OPTIM)
            self.restart_schedule()
        learned.text.requires_grad_(bool(learned.joint))
