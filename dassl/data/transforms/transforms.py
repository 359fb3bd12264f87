"""Image pipelines by name."""

import numpy as np
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from dassl.utils import check_availability

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
TRANSFORMS = (
    "random_flip",
    "random_resized_crop",
    "random_crop",
    "center_crop",
    "normalize",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
    "cutout",
    "instance_norm",
)


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
    if "random_crop" in choices:
        steps.append(T.RandomCrop(cfg.SIZE, padding=cfg.CROP_PADDING))
    if "random_resized_crop" in choices:
        steps.append(T.RandomResizedCrop(cfg.SIZE, scale=cfg.RRCROP_SCALE, interpolation=interpolation))
    if "random_flip" in choices:
        steps.append(T.RandomHorizontalFlip())
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
    return [resize, T.CenterCrop(cfg.SIZE), T.ToTensor(), *normalization_steps(cfg, choices)]


def normalization_steps(cfg, choices):
    steps = []
    if "normalize" in choices:
        steps.append(T.Normalize(cfg.PIXEL_MEAN, cfg.PIXEL_STD))
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return steps
