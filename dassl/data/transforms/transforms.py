"""Pipelines of image transforms, chosen by name."""

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
    """Set square holes in an image tensor (C, H, W) to 0 (DeVries and Taylor, arXiv 1708.04552).

    The centre of a hole is uniform over the image, so part of the hole may lie outside.

    Args:
        n_holes: Number of holes.
        length: Side of a hole in pixels.
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
    """Resize a PIL image to `size`; with probability `p`, to 9/8 of it, then crop `size` at random."""

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
    """Add Gaussian noise of mean `mean` and standard deviation `std` to a tensor, with probability `p`."""

    def __init__(self, mean=0.0, std=0.15, p=0.5):
        self.mean, self.std, self.p = mean, std, p

    def __call__(self, image):
        if torch.rand(()) >= self.p:
            return image
        return image + self.mean + self.std * torch.randn_like(image)

    def __repr__(self):
        return f"GaussianNoise(mean={self.mean}, std={self.std}, p={self.p})"


class InstanceNormalization:
    """Scale each channel of an image tensor (C, H, W) to mean 0 and standard deviation 1."""

    def __call__(self, image):
        std, mean = image.std(dim=(1, 2), keepdim=True), image.mean(dim=(1, 2), keepdim=True)
        return (image - mean) / (std + 1e-8)

    def __repr__(self):
        return "InstanceNormalization()"


def build_transform(cfg, is_train=True, choices=None):
    """Return the pipeline from a PIL image to a tensor (3, H, W).

    Args:
        cfg: The configuration.
        is_train: Whether the images are for training; otherwise the augmentations are left out.
        choices: Names of transforms; cfg.INPUT.TRANSFORMS if None. Their order does not matter.

    Returns:
        A torchvision Compose; None if cfg.INPUT.NO_TRANSFORM.

    Raises:
        UserError: A name or cfg.INPUT.INTERPOLATION is unknown.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice in LEFT_OUT:
            raise UserError(
                f'transform "{choice}" is for semi-supervised learning only, which this toolbox leaves out: '
                "use randaugment"
            )
        check_availability(choice, TRANSFORMS, "transform (INPUT.TRANSFORMS)")
    check_availability(cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES, "interpolation (INPUT.INTERPOLATION)")

    steps = training_steps(cfg.INPUT, choices) if is_train else evaluation_steps(cfg.INPUT, choices)
    print(f"Building transform_{'train' if is_train else 'test'}")
    for step in steps:
        print(f"+ {step}")
    return T.Compose(steps)


def training_steps(cfg, choices):
    """Return the transforms of training images, in order."""
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
    """Return the transforms of test images, in order.

    They equal CLIP's preprocessing if the interpolation is bicubic and mean and standard deviation are CLIP's.
    """
    resize = T.Resize(max(cfg.SIZE), INTERPOLATION_MODES[cfg.INTERPOLATION])
    quiet = set(choices) - {"gaussian_noise"}  # in training only
    return [resize, T.CenterCrop(cfg.SIZE), T.ToTensor(), *normalization_steps(cfg, quiet)]


def normalization_steps(cfg, choices):
    """Return the transforms of tensors that end both pipelines, in order."""
    steps = []
    if "normalize" in choices:
        steps.append(T.Normalize(cfg.PIXEL_MEAN, cfg.PIXEL_STD))
    if "gaussian_noise" in choices:
        steps.append(GaussianNoise(cfg.GN_MEAN, cfg.GN_STD))
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return steps
