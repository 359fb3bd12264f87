"""What the small CLIP can do on pictures that it has never seen: features, zero-shot accuracy, linear probes.

Letters: N pictures, C classes, P patches, D joint dimension.
"""

import zlib
from pathlib import Path

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
from datasets.scenes import Scenes, patches_inside
from sotglp import mcm
from sotglp.prompted import Similarities
from sotglp.prompts import encode_names


def config(root, shots=-1):
    """Return the configuration of the data sets, as the small CLIP reads them."""
    cfg = get_cfg_default()
    Emoji.extend_cfg(cfg)
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.DATASET.SPLIT_BY = root, shots, "concept"
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION, cfg.INPUT.TRANSFORMS = (64, 64), "bicubic", ["normalize"]
    return cfg


@torch.no_grad()
def image_features(clip, items, cfg):
    """Return normalised image features (N, D) and V-V patch features (N, P, D) of a list of Datum."""
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(clip.pixel_mean), list(clip.pixel_std)
    transform = build_transform(cfg, is_train=False)
    images = torch.stack([transform(Image.open(item.impath).convert("RGB")) for item in tqdm(items, leave=False)])
    whole, patches = [], []
    for batch in images.split(250):
        token, local = clip.visual(batch)
        whole.append(F.normalize(token @ clip.visual.proj, dim=-1))
        patches.append(F.normalize(local @ clip.visual.proj, dim=-1))
    return torch.cat(whole), torch.cat(patches)


def choose(data, part):
    """Return the images of a data set that choices may look at (of training and validation), or the test's."""
    return data.test if part == "test" else data.train_x + data.val


def choose_ood(items, part):
    """Return the half of each kind of pictures that choices may look at, or the test's; styles stay together."""
    stems = {item.classname: set() for item in items}
    for item in items:
        stems[item.classname].add(Path(item.impath).stem)
    ranked = {kind: sorted(names, key=lambda name: zlib.crc32(name.encode())) for kind, names in stems.items()}
    chosen = {(kind, name) for kind, names in ranked.items() for name in names[part != "test" :: 2]}
    return [item for item in items if (item.classname, Path(item.impath).stem) in chosen]


def mean_patch(patches):
    """Return the normalised mean (N, D) of patch features (N, P, D)."""
    return F.normalize(patches.mean(dim=1), dim=-1)


def accuracy(features, texts, labels):
    """Return the share of pictures whose nearest text is their class's, in %."""
    return 100 * ((features @ texts.T).argmax(dim=1) == labels).float().mean().item()


@torch.no_grad()
def evaluate(clip, root, part="test"):
    """Return {what: percent} of all that the command prints.

    Args:
        root: folder of the data sets.
        part: "test", or "validation" for the pictures by which recipes are chosen.
    """
    cfg = config(root)
    return {**emoji_figures(clip, cfg, part), **fashion_figures(clip, cfg, part), **scene_figures(clip, cfg, part)}


def encode(clip, cfg, data, part):
    """Return a part's items and their labels, and features of the class names, the images and their patches."""
    items = choose(data, part)
    labels = torch.tensor([item.label for item in items])
    return items, labels, encode_names(clip, data.classnames), *image_features(clip, items, cfg)


def emoji_figures(clip, cfg, part):
    data = Emoji(cfg)
    items, labels, texts, features, patches = encode(clip, cfg, data, part)
    domains = torch.tensor([item.domain for item in items])
    result = {"emoji zero-shot": accuracy(features, texts, labels)}
    for domain, style in enumerate(Emoji.domains):
        chosen = domains == domain
        result[f"emoji zero-shot, {style}"] = accuracy(features[chosen], texts, labels[chosen])
    result["emoji zero-shot, patches"] = accuracy(mean_patch(patches), texts, labels)
    outside = choose_ood(data.ood, part)
    kinds = {}
    inside = mcm_scores(clip, features, texts)
    scores = mcm_scores(clip, image_features(clip, outside, cfg)[0], texts)
    for kind in sorted({item.classname for item in outside}):
        chosen = torch.tensor([item.classname == kind for item in outside])
        kinds[f"emoji MCM AUROC, {kind}"] = float(auroc(inside, scores[chosen]))
    return {**result, "emoji MCM AUROC, mean over kinds": float(np.mean(list(kinds.values()))), **kinds}


def mcm_scores(clip, features, texts):
    """Return MCM, (N,), at the temperature that makes its softmax CLIP's own."""
    return mcm(Similarities((features @ texts.T)[..., None], None), 1 / clip.logit_scale.exp())


def fashion_figures(clip, cfg, part):
    _, labels, texts, features, patches = encode(clip, cfg, FashionMNIST(cfg), part)
    result = {"Fashion-MNIST zero-shot": accuracy(features, texts, labels)}
    result["Fashion-MNIST zero-shot, patches"] = accuracy(mean_patch(patches), texts, labels)
    probes = []
    for seed in (1, 2, 3) if part == "test" else ():
        set_random_seed(seed)
        shots = FashionMNIST(config(cfg.DATASET.ROOT, shots=16)).train_x
        probe = LogisticRegression(max_iter=5000, C=10).fit(
            image_features(clip, shots, cfg)[0].numpy(), [item.label for item in shots]
        )
        probes.append(100 * probe.score(features.numpy(), labels.numpy()))
    return {**result, "Fashion-MNIST linear probe, 16 shots": float(np.mean(probes))} if probes else result


def scene_figures(clip, cfg, part):
    data, result = Scenes(cfg), {}
    items, labels, texts, features, patches = encode(clip, cfg, data, part)
    side = round(patches.shape[1] ** 0.5)
    inside = torch.from_numpy(patches_inside([data.boxes[item.impath] for item in items], side))
    best = (patches @ texts.T).argmax(dim=1)[torch.arange(len(items)), labels]
    result["scenes, best patch in the box"] = 100 * inside[torch.arange(len(items)), best].float().mean().item()
    result["scenes, patches in the box (chance)"] = 100 * inside.float().mean().item()
    result["scenes zero-shot"] = accuracy(features, texts, labels)
    boxed = F.normalize((patches * inside[..., None]).sum(dim=1), dim=-1)
    result["scenes zero-shot, patches in the box"] = accuracy(boxed, texts, labels)
    outside = image_features(clip, data.ood, cfg)[0]
    scores = (mcm_scores(clip, f, texts) for f in (features, outside))
    return {**result, "scenes MCM AUROC, no class": float(auroc(*scores))}
