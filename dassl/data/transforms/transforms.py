"""Image pipelines by name."""

import random

import numpy as np
import torch
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dassl.utils import UserError, check_availability

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
POLICIES = {
    "imagenet_policy": T.AutoAugmentPolicy.IMAGENET,
    "cifar10_policy": T.AutoAugmentPolicy.CIFAR10,
    "svhn_policy": T.AutoAugmentPolicy.SVHN,
}
TRANSFORMS = (
    "random_flip",
    "random_resized_crop",
    "random_crop",
    "random_translation",
    "center_crop",
    "normalize",
    *POLICIES,
    "randaugment",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
    "cutout",
    "gaussian_noise",
    "instance_norm",
)
LEFT_OUT = ("randaugment_fixmatch", "randaugment2")


class Cutout:
    """Set square holes of an image (C, H, W) to 0; a hole's centre is uniform, its part outside is cut.

    Source: DeVries and Taylor, arXiv 1708.04552.
    """

    def __init__(self, n_holes=1, length=16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, image):
        image = image.clone()
        height, width = image.shape[-2:]
        for _ in range(self.n_holes):
            top = np.random.randint(height) - self.length // 2
            left = np.random.randint(width) - self.length // 2
            image[:, max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = 0
        return image

    def __repr__(self):
        return f"Cutout(n_holes={self.n_holes}, length={self.length})"


class RandomTranslation:
    """With probability p enlarge a PIL image to 9/8 of `size` and crop there at random; else only resize it."""

    def __init__(self, size, p=0.5):
        self.size, self.p = tuple(size), p

    def __call__(self, image):
        if random.random() >= self.p:
            return F.resize(image, self.size)
        enlarged = [round(9 / 8 * side) for side in self.size]
        top, left = (round(random.uniform(0, big - side)) for big, side in zip(enlarged, self.size, strict=True))
        return F.crop(F.resize(image, enlarged), top, left, *self.size)

    def __repr__(self):
        return f"RandomTranslation(size={self.size}, p={self.p})"


class GaussianNoise:
    """With probability p add noise of the given mean and standard deviation to a tensor."""

    def __init__(self, mean=0.0, std=0.15, p=0.5):
        self.mean, self.std, self.p = mean, std, p

    def __call__(self, image):
        if torch.rand(()) >= self.p:
            return image
        return image + self.mean + self.std * torch.randn_like(image)

    def __repr__(self):
        return f"GaussianNoise(mean={self.mean}, std={self.std}, p={self.p})"


class InstanceNormalization:
    """Give each channel of an image (C, H, W) mean 0 and standard deviation 1."""

    def __call__(self, image):
        std, mean = image.std(dim=(1, 2), keepdim=True), image.mean(dim=(1, 2), keepdim=True)
        return (image - mean) / (std + 1e-8)

    def __repr__(self):
        return "InstanceNormalization()"


def build_transform(cfg, is_train=True, choices=None):
    """Make the pipeline PIL image -> tensor (3, H, W).

    Args:
        choices: names of transforms; cfg.INPUT.TRANSFORMS if None. Their order in a pipeline is fixed.

    Returns:
        A torchvision Compose; None if cfg.INPUT.NO_TRANSFORM.

    Raises:
        UserError: a name or cfg.INPUT.INTERPOLATION is unknown.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice in LEFT_OUT:
            raise UserError(
                f'transform "{choice}" serves semi-supervised learning only, which this toolbox leaves out: '
                "randaugment is the nearest"
            )
        check_availability(choice, TRANSFORMS, "transform (INPUT.TRANSFORMS)")
    check_availability(cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES, "interpolation (INPUT.INTERPOLATION)")

    steps = training_steps(cfg.INPUT, choices) if is_train else evaluation_steps(cfg.INPUT, choices)
    print(f"Building transform_{'train' if is_train else 'test'}")
    for step in steps:
        print(f"+ {step}")
    return T.Compose(steps)


def training_steps(cfg, choices):
    interpolation = INTERPOLATION_MODES[cfg.INTERPOLATION]
    jitter = cfg.COLORJITTER_B, cfg.COLORJITTER_C, cfg.COLORJITTER_S, cfg.COLORJITTER_H
    steps = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(T.Resize(cfg.SIZE, interpolation))
    if "random_translation" in choices:
        steps.append(RandomTranslation(cfg.SIZE))
    if "random_crop" in choices:
        steps.append(T.RandomCrop(cfg.SIZE, padding=cfg.CROP_PADDING))
    if "random_resized_crop" in choices:
        steps.append(T.RandomResizedCrop(cfg.SIZE, scale=cfg.RRCROP_SCALE, interpolation=interpolation))
    if "random_flip" in choices:
        steps.append(T.RandomHorizontalFlip())
    steps += [T.AutoAugment(policy) for name, policy in POLICIES.items() if name in choices]
    if "randaugment" in choices:
        steps.append(T.RandAugment(cfg.RANDAUGMENT_N, cfg.RANDAUGMENT_M))
    if "colorjitter" in choices:
        steps.append(T.ColorJitter(*jitter))
    if "randomgrayscale" in choices:
        steps.append(T.RandomGrayscale(cfg.RGS_P))
    if "gaussian_blur" in choices:
        steps.append(T.RandomApply([T.GaussianBlur(cfg.GB_K)], cfg.GB_P))
    steps.append(T.ToTensor())
    if "cutout" in choices:
        steps.append(Cutout(cfg.CUTOUT_N, cfg.CUTOUT_LEN))
    return steps + normalization_steps(cfg, choices)


def evaluation_steps(cfg, choices):
    """CLIP's preprocessing if interpolation is bicubic and mean and standard deviation are CLIP's."""
    resize = T.Resize(max(cfg.SIZE), INTERPOLATION_MODES[cfg.INTERPOLATION])
    quiet = set(choices) - {"gaussian_noise"}
    return [resize, T.CenterCrop(cfg.SIZE), T.ToTensor(), *normalization_steps(cfg, quiet)]


def normalization_steps(cfg, choices):
    steps = []
    if "normalize" in choices:
        steps.append(T.Normalize(cfg.PIXEL_MEAN, cfg.PIXEL_STD))
    if "gaussian_noise" in choices:
        steps.append(GaussianNoise(cfg.GN_MEAN, cfg.GN_STD))
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return steps
