"""Pictures for pretraining: drawings painted, placed alone or several on a canvas, and spoilt, in batched operations.

A picture's attributes are the changes that a caption can name.

Letters: B canvases, N drawings, S pixels of a side, K attributes.
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
RECOLORED, COARSE, EMPTY = 0.075, 0.3, 0.03  # and of those that none names
ALONE = ("small", "large", "silhouette")  # changes that are not made to collages
MOSAICS = 0.4  # share of the collages
# Probabilities of a white, black, plain, graded and busy background.
GROUNDS, GROUNDS_OF_SCENES = (0.5, 0.05, 0.25, 0.1, 0.1), (0.2, 0.05, 0.35, 0.15, 0.25)
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


class Augmenter:
    """Augment pictures; all randomness is drawn from one generator, so a batch depends on its seed only."""

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, size, low=0.0, high=1.0):
        return torch.rand(size, generator=self.generator) * (high - low) + low

    def singles(self, pictures, styles):
        """Put each picture on a canvas of its own; one in thirty canvases stays empty.

        Args:
            pictures: (B, 5, S, S) uint8, RGBA and the silhouette.
            styles: B names.

        Returns:
            images (B, 3, S, S) in [0, 1]; coverage (B, S, S) of the object; attributes (B, K) bool.
        """
        batch, size = len(pictures), pictures.shape[-1]
        done = self.changes(batch)
        scale = self.uniform(batch, 0.7, 1.08)
        scale = torch.where(done["small"], self.uniform(batch, 0.35, 0.6), scale)
        scale = torch.where(done["large"], self.uniform(batch, 1.25, 1.7), scale)
        shift = self.uniform((batch, 2), -1, 1) * (1 - scale).abs().clamp(min=0.08)[:, None]
        layers = self.layers(pictures.float() / 255, styles, scale, shift, done)
        layers = layers * _column(self.uniform(batch) >= EMPTY)
        background, names = self.background(batch, size, done["outline"], GROUNDS)
        images = self.coarsen(self.spoil((layers[:, :3] + background * (1 - layers[:, 3:4])).clamp_(0, 1), done))
        return images, layers[:, 4], self.attributes(styles, names, done)

    def collages(self, pictures, styles):
        """Put four pictures on a canvas: a mosaic two by two, or two to four of them anywhere on one ground.

        Args:
            pictures: (4 B, 5, S, S) uint8, RGBA and the silhouette.
            styles: 4 B names.

        Returns:
            images (B, 3, S, S) in [0, 1]; coverage (B, 4, S, S) of what is seen of each object, 0 for one that was
            left out; attributes (4 B, K) bool.
        """
        batch, size = len(pictures) // 4, pictures.shape[-1]
        done = {name: where & (name not in ALONE) for name, where in self.changes(batch).items()}
        mosaic = self.uniform((batch, 1)) < MOSAICS
        scale = torch.where(mosaic, self.uniform((batch, 4), 0.36, 0.52), self.uniform((batch, 4), 0.3, 0.52))
        cells = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
        shift = cells + self.uniform((batch, 4, 2), -1, 1) * torch.where(mosaic, 0.06, 0.25)[:, :, None]
        shift = torch.minimum(shift.abs(), 1 - scale[:, :, None]) * shift.sign()
        each = {name: where.repeat_interleave(4) for name, where in done.items()}
        small = F.avg_pool2d(pictures.float() / 255, 2)
        layers = self.layers(small, styles, scale.flatten(), shift.flatten(0, 1), each, size).unflatten(0, (batch, 4))
        # Of a scene's four pictures the last one or two may be missing.
        number = torch.where(mosaic, 4, torch.randint(2, 5, (batch, 1), generator=self.generator))
        layers = layers * (torch.arange(4) < number)[:, :, None, None, None]
        ground, name = self.background(batch, size, done["outline"], GROUNDS_OF_SCENES)
        quarters, names = self.background(4 * batch, size // 2, each["outline"], GROUNDS)
        quarters = quarters.unflatten(0, (batch, 2, 2)).permute(0, 3, 1, 4, 2, 5).reshape(batch, 3, size, size)
        apart = mosaic[:, 0] & (self.uniform(batch) < 0.6)
        images, coverage = torch.where(_column(apart), quarters, ground), []
        for layer in layers.unbind(1):
            images = images * (1 - layer[:, 3:4]) + layer[:, :3]
            coverage = [below * (1 - layer[:, 3]) for below in coverage] + [layer[:, 4]]
        names = [names[i] if apart[i // 4] else name[i // 4] for i in range(4 * batch)]
        images = self.coarsen(self.spoil(images.clamp_(0, 1), done))
        return images, torch.stack(coverage, dim=1), self.attributes(styles, names, each)

    def changes(self, batch):
        """Draw which changes are made to which pictures, {name: (B,) bool}."""
        done = {name: self.uniform(batch) < chance for name, chance in CHANCE.items()}
        done["large"] &= ~done["small"]
        done["upside down"] &= ~done["rotated"]
        done["silhouette"] &= ~done["outline"]
        done["contour"] &= ~(done["outline"] | done["silhouette"])
        done["dark"] &= ~done["inverted"]
        return done

    def attributes(self, styles, backgrounds, done):
        """Return what captions can say of the pictures, (B, K) bool."""
        attributes = torch.zeros(len(styles), len(COLUMN), dtype=torch.bool)
        for name, where in done.items():
            attributes[:, COLUMN[name]] = where
        recolored = done["gray"] | done["dark"] | done["inverted"]
        for i, (style, name) in enumerate(zip(styles, backgrounds, strict=True)):
            # A silhouette or an outline shows no style; a recoloured background has lost its name.
            attributes[i, COLUMN[style]] = not (done["silhouette"][i] or done["outline"][i])
            attributes[i, COLUMN[f"{name} background"]] = not recolored[i]
        return attributes

    def layers(self, pictures, styles, scale, shift, done, size=None):
        """Return painted, placed and coloured pictures: (N, 5, S, S), premultiplied RGBA and coverage.

        Args:
            pictures: (N, 5, s, s) in [0, 1], RGBA and the silhouette.
            scale, shift: (N,) and (N, 2), of the picture on the canvas from -1 to 1.
            size: S; s if it is None.
        """
        pictures = torch.cat([pictures[:, :3] * pictures[:, 3:4], pictures[:, 3:]], dim=1)
        painted = self.paint(pictures, torch.tensor([style == "icon" for style in styles]))
        placed = self.place(painted, scale, shift, done, size or pictures.shape[-1])
        alpha = placed[:, 3:4]
        color = self.recolor(placed[:, :3], alpha)
        ink = alpha * self.uniform((len(pictures), 3, 1, 1), 0, 0.25)
        color = torch.where(_column(done["silhouette"]), ink, color)
        return torch.cat([color, alpha, torch.maximum(placed[:, 4:], alpha)], dim=1)

    def paint(self, pictures, plain):
        """Paint icons without colours: as lines, or filled with a colour, with the lines on it and with shades.

        Args:
            pictures: (N, 5, s, s), premultiplied RGBA and the silhouette.
            plain: (N,) bool, those that are icons without colours.
        """
        batch, size = len(pictures), pictures.shape[-1]
        alpha, body = pictures[:, 3:4], pictures[:, 4:]
        colors = self.uniform((2, batch, 3, 1, 1))
        colors = torch.where(self.uniform((batch, 1, 1, 1)) < 0.4, colors.mean(dim=2, keepdim=True), colors)
        ink, fill = colors[0] * torch.where(self.uniform((batch, 1, 1, 1)) < 0.5, 0.3, 1.0), colors[1]
        filled = _column(plain & (self.uniform(batch) < 0.6))
        sharp = self.uniform((batch, 1, 1, 1), 0.1, 1.2).clamp(max=1)  # how well the lines stand out
        inside = torch.lerp(fill.expand(-1, -1, size, size), ink.expand(-1, -1, size, size), sharp * alpha)
        # Shades: folds across, a smooth change of light, grain.
        cells = int(self.uniform((), 3, 9))
        light = F.interpolate(self.uniform((batch, 1, cells, cells), -0.5, 0.5), size=(size, size), mode="bilinear")
        folds = F.interpolate(self.uniform((batch, 1, 1, 2 * cells), -0.4, 0.4), size=(size, size), mode="bilinear")
        folds = torch.where(self.uniform((batch, 1, 1, 1)) < 0.4, folds.transpose(2, 3), folds)
        grain = self.uniform((batch, 1, size, size), -0.2, 0.2)
        strength = self.uniform((3, batch, 1, 1, 1))
        shade = 1 + strength[0] * light + strength[1] * folds + strength[2] * grain
        shaded = self.uniform((batch, 1, 1, 1)) < torch.where(filled, 0.75, 0.12)
        color = torch.where(filled, inside * body, torch.where(_column(plain), ink * alpha, pictures[:, :3]))
        alpha = torch.where(filled, body, alpha)
        color = torch.where(shaded, torch.minimum(color * shade.clamp(0.2, 1.8), alpha), color)
        return torch.cat([color, alpha, body], dim=1)

    def place(self, pictures, scale, shift, done, size):
        """Scale, rotate, shear, mirror and shift pictures (N, 5, s, s) onto canvases (N, 5, S, S)."""
        batch = len(pictures)
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
        theta = torch.cat([theta, -(theta @ shift[:, :, None])], dim=-1)
        grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
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

    def background(self, batch, size, white, kinds):
        """Draw backgrounds (B, 3, S, S); return them and their names.

        Args:
            white: (B,) bool, the pictures that get a white one.
            kinds: probabilities of a white, black, plain, graded and busy background.
        """
        kind = torch.multinomial(torch.tensor(kinds), batch, True, generator=self.generator)
        kind[white] = 0
        palette = torch.tensor(list(COLORS.values()))
        choice = torch.randint(len(palette), (batch, 2), generator=self.generator)
        colors = (palette[choice] + self.uniform((batch, 2, 3), -0.1, 0.1)).clamp_(0, 1)
        plain = torch.where((kind == 0)[:, None], self.uniform((batch, 1), 0.94, 1.0), colors[:, 0])
        plain = torch.where((kind == 1)[:, None], self.uniform((batch, 1), 0.0, 0.08), plain)
        result = plain[:, :, None, None].expand(-1, -1, size, size).clone()
        ramp = torch.linspace(0, 1, size)
        direction = self.uniform((batch, 2, 1, 1), -1, 1)
        where = torch.where(kind == 3)[0]
        field = (direction[where, 0] * ramp[:, None] + direction[where, 1] * ramp + 1).clamp(0, 2)[:, None] / 2
        result[where] = torch.lerp(colors[where, 0, :, None, None], colors[where, 1, :, None, None], field)
        noisy = self.uniform(batch) < 0.6
        where, cells = torch.where((kind == 4) & noisy)[0], int(self.uniform((), 4, 16))
        coarse = self.uniform((len(where), 3, cells, cells))
        if len(where):
            result[where] = F.interpolate(coarse, size=(size, size), mode="bilinear")
        where = torch.where((kind == 4) & ~noisy)[0]  # waves
        phase = 60 * (direction[where, 0] * ramp[:, None] + direction[where, 1] * ramp)[:, None]
        result[where] = torch.lerp(
            colors[where, 0, :, None, None], colors[where, 1, :, None, None], phase.sin() / 2 + 0.5
        )
        color_names, names = list(COLORS), ["white", "black", None, "gradient", "busy"]
        return result, [names[k] or color_names[c] for k, c in zip(kind.tolist(), choice[:, 0].tolist(), strict=True)]

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
