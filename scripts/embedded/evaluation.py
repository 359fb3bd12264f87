"""What the small CLIP can do on pictures that it has never seen: features, zero-shot accuracy, linear probes.

Letters: N pictures, C classes, D joint dimension.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from dassl.config import get_cfg_default
from dassl.data.transforms import build_transform
from dassl.metrics import auroc
from dassl.utils import set_random_seed
from datasets.emoji import Emoji
from datasets.fashion_mnist import FashionMNIST
from sotglp import mcm
from sotglp.prompted import Similarities
from sotglp.prompts import encode_names


def config(root, shots=-1):
    """Return the configuration of both data sets, as the small CLIP reads them."""
    cfg = get_cfg_default()
    Emoji.extend_cfg(cfg)
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.DATASET.SPLIT_BY = root, shots, "concept"
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION, cfg.INPUT.TRANSFORMS = (64, 64), "bicubic", ["normalize"]
    return cfg


@torch.no_grad()
def image_features(clip, items, cfg):
    """Return normalised image features and mean V-V patch features, each (N, D), of a list of Datum."""
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(clip.pixel_mean), list(clip.pixel_std)
    transform = build_transform(cfg, is_train=False)
    images = torch.stack([transform(Image.open(item.impath).convert("RGB")) for item in tqdm(items, leave=False)])
    whole, patches = [], []
    for batch in images.split(250):
        token, local = clip.visual(batch)
        whole.append(F.normalize(token @ clip.visual.proj, dim=-1))
        patches.append(F.normalize(F.normalize(local @ clip.visual.proj, dim=-1).mean(dim=1), dim=-1))
    return torch.cat(whole), torch.cat(patches)


def accuracy(features, texts, labels):
    """Return the share of pictures whose nearest text is their class's, in %."""
    return 100 * ((features @ texts.T).argmax(dim=1) == labels).float().mean().item()


@torch.no_grad()
def evaluate(clip, root):
    """Return {what: percent} of all that the command prints.

    Args:
        root: folder of the data sets.
    """
    cfg, result = config(root), {}

    emoji = Emoji(cfg)
    held_out = emoji.train_x + emoji.val + emoji.test
    labels, domains = (torch.tensor([getattr(i, key) for i in held_out]) for key in ("label", "domain"))
    texts = encode_names(clip, emoji.classnames)
    features, patches = image_features(clip, held_out, cfg)
    result["emoji zero-shot"] = accuracy(features, texts, labels)
    for domain, style in enumerate(Emoji.domains):
        chosen = domains == domain
        result[f"emoji zero-shot, {style}"] = accuracy(features[chosen], texts, labels[chosen])
    result["emoji zero-shot, patches"] = accuracy(patches, texts, labels)
    outside, _ = image_features(clip, emoji.ood, cfg)
    scale = clip.logit_scale.exp()
    # The temperature that makes MCM's softmax CLIP's own.
    inside, outside = (mcm(Similarities((f @ texts.T)[..., None], None), 1 / scale) for f in (features, outside))
    for kind in sorted({item.classname for item in emoji.ood}):
        chosen = torch.tensor([item.classname == kind for item in emoji.ood])
        result[f"emoji MCM AUROC, {kind}"] = auroc(inside, outside[chosen])

    fashion = FashionMNIST(cfg)
    labels = torch.tensor([item.label for item in fashion.test])
    texts = encode_names(clip, fashion.classnames)
    features, patches = image_features(clip, fashion.test, cfg)
    result["Fashion-MNIST zero-shot"] = accuracy(features, texts, labels)
    result["Fashion-MNIST zero-shot, patches"] = accuracy(patches, texts, labels)
    probes = []
    for seed in (1, 2, 3):
        set_random_seed(seed)
        shots = FashionMNIST(config(root, shots=16)).train_x
        probe = LogisticRegression(max_iter=5000, C=10).fit(
            image_features(clip, shots, cfg)[0].numpy(), [item.label for item in shots]
        )
        probes.append(100 * probe.score(features.numpy(), labels.numpy()))
    result["Fashion-MNIST linear probe, 16 shots"] = float(np.mean(probes))
    return result
