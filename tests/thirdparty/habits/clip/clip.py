"""A miniature CLIP of this repository's own, with random weights, in half precision as OpenAI's code leaves it."""

import torch
import torch.nn as nn

__all__ = ["load", "tokenize"]
WIDTH, LENGTH, PATCH = 32, 24, 16


class LayerNorm(nn.LayerNorm):
    """Computes in full precision."""

    def forward(self, x):
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type(x.dtype)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln = LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.relu(self.fc(self.ln(x)))


class CLIP(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.visual = Tower()
        self.token_embedding = nn.Embedding(128, WIDTH)
        self.transformer = Tower()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    @property
    def dtype(self):
        return self.conv1.weight.dtype

    def encode_image(self, image):
        return self.visual(self.conv1(image.type(self.dtype)).flatten(2).transpose(1, 2)).mean(dim=1)


def load(name, device="cpu"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP().half().to(device)
    return model.eval(), None


def tokenize(texts):
    return torch.tensor([[ord(letter) % 128 for letter in text.ljust(LENGTH)[:LENGTH]] for text in texts])
