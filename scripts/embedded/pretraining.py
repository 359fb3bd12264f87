"""The pretraining of the small CLIP: batches of pictures with captions, the loss, the training.

Letters: B pictures, T captions, D joint dimension, P patches, W width.
"""

import json
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from dassl.utils import UserError
from scripts.embedded.augment import Augmenter
from scripts.embedded.captions import Captioner
from sotglp.clip import CLIP, PIXEL_MEAN, PIXEL_STD

SIZES = {
    "embed_dim": 128,
    "image_size": 64,
    "patch_size": 8,
    "vision_width": 128,
    "vision_layers": 6,
    "text_width": 128,
    "text_layers": 4,
}
PATCHES, KEPT = 64, 20
LICENCE = "Weights: MIT. Made from Noto (Apache-2.0), Twemoji (CC-BY-4.0) and Fluent (MIT) emoji; see README.md"


class Pictures:
    """The pretraining pictures and their words; ``batch`` draws augmented pictures, captions and their truth.

    Args:
        folder: what make_data.py wrote.

    Raises:
        UserError: The folder has no such file.
    """

    def __init__(self, folder):
        if not (folder / "pretrain.npz").exists():
            raise UserError(f"{folder / 'pretrain.npz'} is missing: run python -m scripts.embedded.make_data first")
        with np.load(folder / "pretrain.npz") as data:
            self.pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).contiguous()
            self.concept = torch.from_numpy(data["concept"])
            self.style = data["style"]
        words = json.loads((folder / "pretrain.json").read_text())
        self.styles, self.captioner = words["styles"], Captioner(words["concepts"])
        # Large categories (flags, persons) are seen less often per concept than small ones.
        labels = [c["label"] for c in words["concepts"]]
        weight = torch.tensor([(12 / labels.count(label)) ** 0.5 if label else 1.0 for label in labels])
        self.weight = weight[self.concept]

    def batch(self, size, seed):
        """Draw augmented pictures and captions; the same seed draws the same.

        Returns:
            images (B, 3, 64, 64) in [0, 1]; the object's coverage (B, 64, 64); captions with names and captions with
            categories, each a pair of tokens (T, L) and truth (B, T).
        """
        generator, choices = torch.Generator().manual_seed(seed), random.Random(seed)
        chosen = torch.multinomial(self.weight, size, generator=generator)
        concepts = self.concept[chosen]
        styles = [self.styles[s] for s in self.style[chosen.numpy()]]
        images, coverage, attributes = Augmenter(generator)(self.pictures[chosen], styles)
        captions = []
        for part, category in ((slice(None), False), (slice(None, None, 2), True)):
            tokens, nouns, named = self.captioner.write(concepts[part], attributes[part], choices, category)
            captions.append((tokens, self.captioner.truth(concepts, attributes, nouns, named)))
        return images, coverage, captions


def keep_patches(tokens, coverage, kept, generator):
    """Return the class token and the ``kept`` patch tokens that are drawn, likelier where the object is.

    Args:
        tokens: (B, 1 + P, W).
        coverage: (B, S, S) of the object, from 0 to 1.
        kept: patches of an image, drawn without replacement.
        generator: of the draw.
    """
    share = F.avg_pool2d(coverage[:, None], coverage.shape[-1] // round(PATCHES**0.5)).flatten(1)
    gumbel = -torch.log(-torch.log(torch.rand(share.shape, generator=generator).clamp(1e-6, 1 - 1e-6)))
    index = (torch.log(share + 0.05) + gumbel).topk(kept).indices.to(tokens.device)
    patches = tokens[:, 1:].gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([tokens[:, :1], patches], dim=1)


def matching_loss(images, texts, truth, scale):
    """Return the symmetric cross-entropy against all true captions of a picture, and all true pictures of a caption.

    Pictures and captions without a true partner do not count.

    Args:
        images, texts: features (B, D) and (T, D), not normalised.
        truth: (B, T) bool.
        scale: of the cosines.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    loss = 0
    for score, true in ((logits, truth), (logits.T, truth.T)):
        row = true.any(dim=1)
        target = true[row] / true[row].sum(dim=1, keepdim=True)
        loss = loss + F.cross_entropy(score[row], target) / 2
    return loss


def step_losses(clip, pictures, batch, seed, kept, device):
    """Return a step's losses on captions with names and on those with categories.

    Args:
        batch: number of pictures.
        kept: patches of a picture; PATCHES keeps all.
    """
    images, coverage, captions = pictures.batch(batch, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    images = (images.to(device) - mean) / std
    tokens = clip.visual.embed(images)
    if kept < PATCHES:
        tokens = keep_patches(tokens, coverage, kept, generator)
    feature = clip.visual.encode(tokens)[0] @ clip.visual.proj
    return [
        matching_loss(feature, clip.encode_text(tokens.to(device)), truth.to(device), clip.logit_scale.exp())
        for tokens, truth in captions
    ]


def build(token_ids):
    clip = CLIP(**SIZES, vocab_size=len(token_ids)).requires_grad_(True)
    clip.logit_scale.data.fill_(math.log(20))
    return clip


def build_optimizer(clip, lr, weight_decay):
    """Return AdamW: decay on matrices only; the logit scale learns five times as fast."""
    decayed = [p for n, p in clip.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    plain = [p for n, p in clip.named_parameters() if (p.ndim < 2 or "embedding" in n) and n != "logit_scale"]
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
        {"params": [clip.logit_scale], "lr": 5 * lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def save_weights(clip, token_ids, path, recipe, seed):
    """Write the weights in fp16 under OpenAI's names, atomically.

    Args:
        token_ids: BPE ids of the rows of the compact token embedding, kept beside the weights.
        recipe, seed: kept in the file's metadata.
    """
    state = {name: value.detach().cpu().half().contiguous() for name, value in clip.state_dict().items()}
    state["token_ids"] = torch.tensor(token_ids, dtype=torch.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file(state, temporary, metadata={"recipe": recipe, "seed": str(seed), "licence": LICENCE})
    temporary.chmod(0o644)
    temporary.replace(path)


def save_checkpoint(path, **state):
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def pretrain(args):
    """Train and write the weights; arguments as the command's.

    Raises:
        FloatingPointError: The loss is not finite.
        UserError: The data are missing, or the checkpoint is of a run with other arguments.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures = Pictures(args.data)
    token_ids = pictures.captioner.token_ids
    torch.manual_seed(args.seed)
    clip = build(token_ids).to(device)
    optimizer = build_optimizer(clip, args.lr, args.weight_decay)
    warmup = max(args.steps // 20, 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps)),
    )
    checkpoint, first, seconds = args.out.with_suffix(".checkpoint"), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        if state["run"] != [args.batch, args.seed]:
            raise UserError(f"{checkpoint} is of a run with another --batch or --seed: delete it to start anew")
        clip.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first, seconds = state["step"], state["seconds"]
    print(f"{len(pictures.pictures)} pictures, {len(token_ids)} word pieces, {device}, from step {first}", flush=True)

    start = time.time()
    progress = tqdm(range(first, args.steps), initial=first, total=args.steps, mininterval=10)
    for step in progress:
        kept = PATCHES if step >= 0.95 * args.steps else KEPT
        name, category = step_losses(clip, pictures, args.batch, 2 * (args.seed * 1_000_000 + step), kept, device)
        loss = (name + category) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(100))
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        if step % 50 == 0:
            scale = clip.logit_scale.exp().item()
            progress.set_postfix_str(f"name {name.item():.2f} category {category.item():.2f} scale {scale:.1f}")
        if (step + 1) % args.save_every == 0:
            save_checkpoint(checkpoint, run=[args.batch, args.seed], step=step + 1,
                            seconds=seconds + time.time() - start, model=clip.state_dict(),
                            optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())  # fmt: skip
    seconds += time.time() - start
    recipe = f"scripts/embedded/pretrain.py --steps {args.steps} --batch {args.batch}"
    save_weights(clip, token_ids, args.out, recipe, args.seed)
    checkpoint.unlink(missing_ok=True)
    print(f"Wrote {args.out} after {seconds:.0f} s of training")
