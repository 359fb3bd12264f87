"""Backbones of open_clip with each family's own kinds of layers, but small and with random weights.

Only what takes a network is replaced: weights are made here, and so is the tokenizer that would be downloaded.
"""

import copy
import functools
from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch

from sotglp import hub

SIZE = 32  # pixels of an image's side; 16 patches
VIT = dict(img_size=SIZE, patch_size=8, embed_dim=48, depth=3, num_heads=4)
FASTVIT = dict(layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64))
PLAIN = dict(image_size=SIZE, layers=3, width=48, head_width=24, patch_size=8)
RESNET = dict(image_size=SIZE, layers=[1, 1, 1, 1], width=8)
# Family: a name of a released model, and what of its image tower is made smaller.
FAMILIES = {
    "SigLIP": ("ViT-B-16-SigLIP:webli", VIT),
    "SigLIP 2": ("ViT-B-16-SigLIP2:webli", VIT),
    "EVA02": ("EVA02-B-16:merged2b_s8b_b131k", VIT),
    "PE-Core": ("PE-Core-B-16:meta", VIT),
    "MetaCLIP": ("ViT-B-16:metaclip_400m", PLAIN),
    "DFN": ("ViT-B-16:dfn2b", PLAIN),
    "MetaCLIP 2": ("ViT-H-14-worldwide:metaclip2_worldwide", PLAIN),
    "MobileCLIP 2": ("MobileCLIP2-S0:dfndr2b", FASTVIT),
    "ResNet": ("RN50:yfcc15m", RESNET),
}
WHOLE = ("MobileCLIP 2", "ResNet")  # without patch tokens
LOCAL = [family for family in FAMILIES if family not in WHOLE]
TIMM = ("SigLIP", "SigLIP 2", "EVA02", "PE-Core")
WORDS = 500  # of the replaced tokenizers


class Words:
    """A tokenizer as Hugging Face's, with an id for each word, inside a wrapper as open_clip's."""

    strip_sep_token = False

    def __init__(self, start, end, padding):
        self.start, self.end, self.pad_token_id = start, end, padding
        self.tokenizer, self.known = self, {}

    def clean_fn(self, text):
        return text.lower().replace(".", "")

    def ids(self, text):
        return [self.known.setdefault(word, 10 + len(self.known)) for word in text.split()]

    def __call__(self, text, add_special_tokens=True):
        ids = self.ids(text)
        return SimpleNamespace(input_ids=[*self.start, *ids, *self.end] if add_special_tokens else ids)

    def __len__(self):
        return WORDS

    def decode(self, ids):
        words = {number: word for word, number in self.known.items()}
        return " ".join(words[number] for number in ids)

    def sentences(self, texts, length):
        """What open_clip's wrapper returns: ids (n, length) with the padding."""
        rows = [self(self.clean_fn(text)).input_ids for text in texts]
        return torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows])


# As the released tokenizers are: T5's, Gemma's, XLM-V's.
TOKENIZERS = {"SigLIP": ([], [1], 1), "SigLIP 2": ([], [1], 0), "MetaCLIP 2": ([0], [2], 1)}


def shrunken(architecture, sizes):
    """Open_clip's configuration of an architecture with smaller towers."""
    config = hub_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = sizes["embed_dim"] if vision.get("timm_pool") == "map" else 32
    vision.update({"image_size": SIZE} if "timm_model_name" in vision else sizes)
    text.update(width=32, heads=2, layers=2)
    text.pop("mlp_ratio", None)
    if "hf_tokenizer_name" in text:
        text["vocab_size"] = WORDS
    return config


hub_config = open_clip.get_model_config
create = timm.create_model


def randomise(model):
    """Move all weights away from where they start, so that every part counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "logit" not in name:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator) * (1 if "var" in name else 1.5))
                tensor.sub_(0 if "var" in name else 0.075)
        model.logit_scale.fill_(1.5)
        if model.logit_bias is not None:
            model.logit_bias.fill_(-2.0)
    return model.requires_grad_(False).eval()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Function family -> (name of the backbone, open_clip's model, function texts -> ids by open_clip's law).

    ``load_clip(name)`` then loads the same weights.
    """
    made = {}

    def make(family):
        if family in made:
            return made[family]
        name, sizes = FAMILIES[family]
        architecture, tag = name.split(":")
        config = shrunken(architecture, sizes)
        monkeypatch.setattr(
            timm, "create_model", functools.partial(create, **sizes) if sizes in (VIT, FASTVIT) else create
        )
        monkeypatch.setattr(open_clip, "get_model_config", lambda _: copy.deepcopy(config))
        words = Words(*TOKENIZERS[family]) if family in TOKENIZERS else None
        monkeypatch.setattr(open_clip, "get_tokenizer", lambda _: words)
        monkeypatch.setattr(hub, "announce", lambda urls, name: None)
        monkeypatch.setattr(hub, "fetch", lambda source, name: str(tmp_path / "weights.pt"))
        quick = hub.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
        parts = {key: value for key, value in copy.deepcopy(config).items() if key != "custom_text"}
        kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
        model = randomise(kind(**{**parts, "quick_gelu": quick}))
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        length = config["text_cfg"]["context_length"]

        def ids(texts):
            return words.sentences(texts, length) if words else open_clip.tokenize(texts, length)

        return name, model, ids

    return make
