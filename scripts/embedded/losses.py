"""The losses of pretraining: whole pictures and their parts matched to captions and to categories.

Letters: B canvases, N objects, P patches, T captions, Q categories, D joint dimension.
"""

import math

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from scripts.embedded.batches import PATCHES
from sotglp.interface import PIXEL_MEAN, PIXEL_STD

EVEN, DRAWN = 0.5, 24  # weight of evenness, and among how many categories


class FloatAttention(TorchFunctionMode):
    """Attention in float32 inside autocast: on a CPU its backward pass in bfloat16 takes five times as long."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention and args[0].device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return function(*(arg.float() for arg in args), **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def keep_patches(tokens, share, kept, generator):
    """Return the class token and the ``kept`` patch tokens that are drawn, likelier where the object is.

    Args:
        tokens: (B, 1 + P, W).
        share: (B, P) covered by the object, from 0 to 1.
        kept: patches of an image, drawn without replacement.
        generator: of the draw.

    Returns:
        Tokens (B, 1 + kept, W), and the patches that were kept (B, kept).
    """
    gumbel = -torch.log(-torch.log(torch.rand(share.shape, generator=generator).clamp(1e-6, 1 - 1e-6)))
    index = (torch.log(share + 0.05) + gumbel.to(share.device)).topk(kept).indices
    patches = tokens[:, 1:].gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([tokens[:, :1], patches], dim=1), index


def matching_loss(images, texts, truth, scale):
    """Return the symmetric cross-entropy against all true captions of a picture, and all true pictures of a caption.

    Pictures and captions without a true partner do not count.

    Args:
        images, texts: features (N, D) and (T, D), not normalised.
        truth: (N, T) bool.
        scale: of the cosines.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    loss = 0
    for score, true in ((logits, truth), (logits.T, truth.T)):
        row = true.any(dim=1)
        target = true[row] / true[row].sum(dim=1, keepdim=True)
        loss = loss + F.cross_entropy(score[row], target) / 2
    return loss


def category_loss(logits, truth, judged, drawn):
    """Return the cross-entropy of pictures against their true categories, and that against evenness where none is true.

    Among some categories that are drawn, those of a picture that is in none of them should be alike: so a picture of
    another kind is not taken for one of the classes.

    Args:
        logits, truth: (N, Q).
        judged: (N,) the pictures that count.
        drawn: (n,) categories.
    """
    target = truth / truth.sum(dim=1, keepdim=True).clamp(min=1)
    of_some = judged & truth.any(dim=1)
    found = -(target * logits.log_softmax(dim=1)).sum(dim=1)[of_some].sum() / of_some.sum().clamp(min=1)
    of_none = judged & ~truth[:, drawn].any(dim=1)
    uneven = -logits[:, drawn].log_softmax(dim=1).mean(dim=1) - math.log(len(drawn))
    return found + EVEN * uneven[of_none].sum() / of_none.sum().clamp(min=1)


def pointing_loss(logits, inside, asked):
    """Return how little of a text's attention to the patches of a canvas falls on the objects that it is about.

    Args:
        logits: (B, P, T) of all texts on the patches of all canvases.
        inside: (B, P, T) in [0, 1], the share of a patch that these objects cover.
        asked: (B, T) bool, which pairs count.
    """
    mass = (logits.softmax(dim=1) * inside).sum(dim=1)
    return -torch.log(mass[asked] + 1e-4).mean() if asked.any() else logits.sum() * 0


def step_losses(clip, batch, singles, kept, generator):
    """Return {name: loss} of a step.

    Args:
        batch: a Batch.
        singles: how many of its canvases have one object.
        kept: patches of these canvases; PATCHES keeps all.
        generator: of the draws, on the CPU.
    """
    device, scale = batch.images.device, clip.logit_scale.exp()
    count = len(batch.images)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    with torch.autocast(device.type, torch.bfloat16), FloatAttention():
        tokens = clip.visual.embed((batch.images - mean) / std)
        places = torch.arange(PATCHES, device=device).expand(count, PATCHES)
        groups = [(tokens, places)]
        if kept < PATCHES:
            covered = torch.zeros(count, PATCHES, device=device).index_add(0, batch.canvas, batch.share)[:singles]
            groups = [keep_patches(tokens[:singles], covered, kept, generator), (tokens[singles:], places[singles:])]
        encoded = [clip.visual.encode(tokens, ("vv",)) for tokens, _ in groups]
        whole = torch.cat([token for token, _ in encoded]) @ clip.visual.proj
        patches = [F.normalize((local["vv"] @ clip.visual.proj).float(), dim=-1) for _, local in encoded]
        texts = [clip.encode_text(tokens) for tokens in (batch.tokens, batch.category_tokens)]
    whole, names, categories = (F.normalize(x.float(), dim=-1) for x in (whole, *texts))

    # What a canvas shows is what its objects show.
    belongs = F.one_hot(batch.canvas, count).T.float()  # B, N
    truth = (belongs @ batch.truth.float()) > 0
    category_truth = (belongs @ batch.category_truth.float()) > 0
    judged = (belongs @ (~batch.judged).float()) == 0
    # An object's patches: those that it covers, of a part of them at random, or all of a canvas with one object.
    part = torch.rand(len(batch.share), 1, generator=generator) * 0.9 + 0.1
    taken = (torch.rand(batch.share.shape, generator=generator) < part).float().to(device)
    weight = (batch.share + 0.005) * (taken + 0.01)
    every = (torch.rand(len(weight), generator=generator).to(device) < 0.4) & (batch.canvas < singles)
    weight = torch.where(every[:, None], 1.0, weight)
    parts = F.normalize(sum_patches(patches, [places for _, places in groups], batch.canvas, weight), dim=-1)

    drawn = torch.randperm(len(categories), generator=generator)[:DRAWN].to(device)
    losses = {
        "name": matching_loss(whole, names, truth, scale),
        "category": category_loss(scale * whole @ categories.T, category_truth, judged, drawn),
        "patch name": matching_loss(parts, names, batch.truth, scale),
        "patch category": category_loss(scale * parts @ categories.T, batch.category_truth, batch.judged, drawn),
    }
    if count > singles:
        losses["pointing"] = within_losses(patches[-1][-(count - singles) :], batch, names, categories, scale, singles)
    return losses


def sum_patches(patches, places, canvas, weight):
    """Return the weighted sum of the patches of each object, (N, D).

    Args:
        patches: groups of canvases, in order, each (canvases, kept, D).
        places: of each group, which patches they are, (canvases, kept).
        canvas: (N,) of each object.
        weight: (N, P).
    """
    blocks, start = [], 0
    for group in places:
        objects = torch.where((canvas >= start) & (canvas < start + len(group)))[0]
        local = canvas[objects] - start
        block = weight.new_zeros(len(canvas), *group.shape)
        block[objects, local] = weight[objects].gather(1, group[local])
        blocks.append(block.flatten(1))
        start += len(group)
    return torch.cat(blocks, dim=1) @ torch.cat([group.flatten(0, 1) for group in patches])


def within_losses(patches, batch, names, categories, scale, singles):
    """Return the loss of patches within collages: a caption on its object's patches, a patch on its object's caption.

    Args:
        patches: (B, P, D) of the collages, normalised.
        batch: the Batch; ``singles`` of its canvases come before the collages.
        names, categories: texts (T, D) and (Q, D), normalised.
    """
    some = batch.canvas >= singles
    canvas, share = batch.canvas[some] - singles, batch.share[some]
    own = F.one_hot(canvas, len(patches)).T.bool()  # (B, N) the objects of a canvas
    logits = scale * patches @ names[some].T  # B, P, N
    # A caption looks for the objects of its canvas that it is true of.
    of_text = batch.truth[some][:, some] & own.T[:, canvas]  # (objects, captions) of the same canvas
    inside = torch.einsum("np,nt,bn->bpt", share, of_text.float(), own.float()).clamp(max=1)
    by_name = pointing_loss(logits, inside, own)
    in_category = batch.category_truth[some]
    inside = torch.einsum("np,nq,bn->bpq", share, in_category.float(), own.float()).clamp(max=1)
    asked = (own.float() @ in_category.float()) > 0
    by_category = pointing_loss(scale * patches @ categories.T, inside, asked)
    # A patch's captions are those of the objects on its canvas; the right ones are true of the object that covers it.
    chosen = logits.masked_fill(~own[:, None], -math.inf).log_softmax(dim=-1).masked_fill(~own[:, None], 0)
    matched = torch.einsum("np,nt->ptn", share, of_text.float())  # P, captions, objects
    weight = torch.einsum("ptn,bn->bpt", matched, own.float())
    by_patch = -(weight * chosen).sum() / weight.sum()
    return (by_name + by_category + by_patch) / 3
