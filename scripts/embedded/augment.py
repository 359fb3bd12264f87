"""Pictures for pretraining: RGBA drawings placed, coloured, set on backgrounds and spoilt, in batched operations.

A picture's attributes are the changes that a caption can name.

Letters: B pictures, S pixels of a side, K attributes.
"""

import math

import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from scripts.embedded.captions import COLORS, COLUMN

# Probabilities of the changes that a caption can name.
CHANCE = {
    "gray": 0.35,
    "dark": 0.015,
    "inverted": 0.015,
    "blurred": 0.04,
    "pixelated": 0.025,
    "noisy": 0.01,
    "silhouette": 0.015,
    "outline": 0.02,
    "contour": 0.05,
    "rotated": 0.04,
    "upside down": 0.01,
    "small": 0.04,
    "large": 0.04,
}
RECOLORED, COARSE = 0.075, 0.3  # and of those that none names
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


class Augmenter:
    """Augment pictures; all randomness is drawn from one generator, so a batch depends on its seed only."""

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, size, low=0.0, high=1.0):
        return torch.rand(size, generator=self.generator) * (high - low) + low

    def __call__(self, pictures, styles):
        """Augment a batch.

        Args:
            pictures: (B, 4, S, S) uint8, RGBA.
            styles: B names.

        Returns:
            images (B, 3, S, S) in [0, 1]; coverage (B, S, S) of the object; attributes (B, K) bool.
        """
        batch = len(pictures)
        done = {name: self.uniform(batch) < chance for name, chance in CHANCE.items()}
        done["large"] &= ~done["small"]
        done["upside down"] &= ~done["rotated"]
        done["silhouette"] &= ~done["outline"]
        done["contour"] &= ~(done["outline"] | done["silhouette"])
        done["dark"] &= ~done["inverted"]
        premultiplied = pictures.float() / 255
        premultiplied[:, :3] *= premultiplied[:, 3:]
        placed = self.place(premultiplied, done)
        color, alpha = self.recolor(placed[:, :3], placed[:, 3:]), placed[:, 3:]
        color = torch.where(_column(done["silhouette"]), alpha * self.uniform((batch, 3, 1, 1), 0, 0.25), color)
        background, names = self.background(batch, pictures.shape[-1], white=done["outline"])
        images = self.coarsen(self.spoil((color + background * (1 - alpha)).clamp_(0, 1), done))

        attributes = torch.zeros(batch, len(COLUMN), dtype=torch.bool)
        for name, where in done.items():
            attributes[:, COLUMN[name]] = where
        recolored = done["gray"] | done["dark"] | done["inverted"]
        for i, (style, name) in enumerate(zip(styles, names, strict=True)):
            # A silhouette or an outline shows no style; a recoloured background has lost its name.
            attributes[i, COLUMN[style]] = not (done["silhouette"][i] or done["outline"][i])
            attributes[i, COLUMN[f"{name} background"]] = not recolored[i]
        return images, alpha[:, 0], attributes

    def place(self, pictures, done):
        """Scale, rotate, shear, mirror and shift."""
        batch = len(pictures)
        scale = self.uniform(batch, 0.7, 1.08)
        scale = torch.where(done["small"], self.uniform(batch, 0.35, 0.6), scale)
        scale = torch.where(done["large"], self.uniform(batch, 1.25, 1.7), scale)
        angle = self.uniform(batch, -0.2, 0.2)
        side = torch.where(self.uniform(batch) < 0.5, -1.0, 1.0)
        angle = torch.where(done["rotated"], side * self.uniform(batch, 0.5, math.pi / 2), angle)
        angle = angle + math.pi * done["upside down"]
        stretch, shear = self.uniform(batch, -0.15, 0.15).exp(), self.uniform(batch, -0.15, 0.15)
        mirror = torch.where(self.uniform(batch) < 0.5, -1.0, 1.0)
        cos, sin = angle.cos(), angle.sin()
        # The grid takes output to input coordinates: rotation, then shear and stretch, over the scale.
        theta = torch.stack(
            [
                torch.stack([mirror * stretch * (cos + shear * sin), mirror * stretch * (shear * cos - sin)], -1),
                torch.stack([sin / stretch, cos / stretch], -1),
            ],
            1,
        ) / scale.view(-1, 1, 1)
        slack = (1 - scale).abs().clamp(min=0.08)
        shift = self.uniform((batch, 2), -1, 1) * slack[:, None]
        theta = torch.cat([theta, -(theta @ shift[:, :, None])], dim=-1)
        grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, align_corners=False)

    def recolor(self, color, alpha):
        """Mix the object's channels a little, or now and then a lot; then brightness and contrast."""
        batch = len(color)
        strength = torch.where(self.uniform(batch) < RECOLORED, 0.5, 0.08).view(-1, 1, 1)
        mix = torch.eye(3) + strength * self.uniform((batch, 3, 3), -1, 1)
        mix = mix / mix.sum(dim=-1, keepdim=True).clamp(min=0.5)
        mixed = torch.einsum("bij,bjhw->bihw", mix, color)
        gain, offset = self.uniform((batch, 1, 1, 1), 0.75, 1.25), self.uniform((batch, 1, 1, 1), -0.1, 0.1)
        return torch.minimum((mixed * gain + offset * alpha).clamp_(min=0), alpha)

    def background(self, batch, size, white):
        """Draw backgrounds (B, 3, S, S); return them and their names.

        Args:
            white: (B,) bool, the pictures that get a white one.
        """
        kind = torch.multinomial(torch.tensor([0.5, 0.05, 0.27, 0.1, 0.08]), batch, True, generator=self.generator)
        kind[white] = 0
        palette = torch.tensor(list(COLORS.values()))
        choice = torch.randint(len(palette), (batch, 2), generator=self.generator)
        colors = (palette[choice] + self.uniform((batch, 2, 3), -0.1, 0.1)).clamp_(0, 1)
        plain = torch.where((kind == 0)[:, None], self.uniform((batch, 1), 0.94, 1.0), colors[:, 0])
        plain = torch.where((kind == 1)[:, None], self.uniform((batch, 1), 0.0, 0.08), plain)
        result = plain[:, :, None, None].expand(-1, -1, size, size).clone()
        ramp = torch.linspace(0, 1, size)
        for i in torch.where(kind == 3)[0]:
            field = ramp[:, None] if self.uniform(()) < 0.5 else ramp[None, :].expand(size, size)
            result[i] = torch.lerp(colors[i, 0].view(3, 1, 1), colors[i, 1].view(3, 1, 1), field)
        busy = torch.where(kind == 4)[0]
        coarse = self.uniform((len(busy), 3, 10, 10))
        result[busy] = F.interpolate(coarse, size=(size, size), mode="bilinear")
        color_names, kinds = list(COLORS), ["white", "black", None, "gradient", "busy"]
        return result, [kinds[k] or color_names[c] for k, c in zip(kind.tolist(), choice[:, 0].tolist(), strict=True)]

    def spoil(self, images, done):
        """Change whole pictures, in place, each as ``done`` says."""
        for name in ("outline", "contour", "gray", "pixelated", "blurred", "noisy", "dark", "inverted"):
            where = torch.where(done[name])[0]
            if len(where):
                images[where] = getattr(self, name)(images[where])
        return images

    def coarsen(self, images):
        """Take detail from some pictures, as if they had been enlarged from 20 to 48 pixels."""
        where = torch.where(self.uniform(len(images)) < COARSE)[0]
        size = int(self.uniform((), 20, 48))
        if len(where):
            small = F.interpolate(images[where], size=(size, size), mode="bilinear", antialias=True)
            images[where] = F.interpolate(small, size=images.shape[-2:], mode="bicubic").clamp(0, 1)
        return images

    def outline(self, images):
        return self.ink(images).expand(-1, 3, -1, -1)

    def contour(self, images):
        return images * self.ink(images)

    def ink(self, images):
        """Return (B, 1, S, S), black at edges of the brightness, else white."""
        luma = F.pad((images * LUMA).sum(1), (1, 1, 1, 1), mode="replicate")
        edges = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]).abs() + (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]).abs()
        return (1 - 2.5 * edges).clamp_(0, 1)[:, None]

    def gray(self, images):
        return (images * LUMA).sum(1, keepdim=True).expand(-1, 3, -1, -1)

    def pixelated(self, images):
        return F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="nearest")

    def blurred(self, images):
        return gaussian_blur(images, [9, 9], [float(self.uniform((), 1.2, 2.4))] * 2)

    def noisy(self, images):
        return (images + 0.1 * torch.randn(images.shape, generator=self.generator)).clamp_(0, 1)

    def dark(self, images):
        return images * self.uniform((len(images), 1, 1, 1), 0.2, 0.5)

    def inverted(self, images):
        return 1 - images


def _column(x):
    return x.view(-1, 1, 1, 1)
