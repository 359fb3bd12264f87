"""The pretraining of the small CLIP: the model, the optimizer, the training."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from dassl.utils import UserError
from scripts.embedded.batches import PATCHES, Pictures
from scripts.embedded.losses import step_losses
from sotglp.clip import CLIP

SIZES = {
    "embed_dim": 128,
    "image_size": 64,
    "patch_size": 8,
    "vision_width": 128,
    "vision_layers": 6,
    "text_width": 128,
    "text_layers": 4,
}
KEPT, ALL = 26, 0.85  # patches of a canvas with one object, and from which share of the steps all are kept
ICONS = 0.25  # from which share of the steps icons are drawn: colours teach sooner than shapes do
WEIGHTS = {"name": 1.0, "category": 1.0, "patch name": 0.7, "patch category": 0.7, "pointing": 0.5}
LICENCE = "Weights: MIT. Made from open emoji and icons; licences and attribution in README.md"


def build(token_ids):
    clip = CLIP(**SIZES, vocab_size=len(token_ids)).requires_grad_(True)
    clip.logit_scale.data.fill_(math.log(20))
    return clip


def build_optimizers(clip, lr, weight_decay):
    """Return Muon for the matrices of the blocks and AdamW for all else; the logit scale learns five times as fast.

    Muon (Jordan et al., 2024) makes an update's singular values alike; scaled like AdamW's, it takes the same rate.
    """
    blocks = [p for n, p in clip.named_parameters() if p.ndim == 2 and "resblocks" in n]
    others = [
        (n, p) for n, p in clip.named_parameters() if not (p.ndim == 2 and "resblocks" in n) and n != "logit_scale"
    ]
    groups = [
        {"params": [p for n, p in others if p.ndim >= 2 and "embedding" not in n], "weight_decay": weight_decay},
        {"params": [p for n, p in others if p.ndim < 2 or "embedding" in n], "weight_decay": 0.0},
        {"params": [clip.logit_scale], "lr": 5 * lr, "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(blocks, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)


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
    optimizers = build_optimizers(clip, args.lr, args.weight_decay)
    warmup = max(args.steps // 50, 1)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps)),
        )
        for optimizer in optimizers
    ]
    run = [args.singles, args.collages, args.seed, args.lr]
    checkpoint, first, seconds = args.out.with_suffix(".checkpoint"), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        if state["run"] != run:
            raise UserError(f"{checkpoint} is of a run with other arguments: delete it to start anew")
        clip.load_state_dict(state["model"])
        for part, saved in zip((*optimizers, *schedulers), state["training"], strict=True):
            part.load_state_dict(saved)
        first, seconds = state["step"], state["seconds"]
    print(f"{len(pictures.pictures)} pictures, {len(token_ids)} word pieces, {device}, from step {first}", flush=True)

    start = time.time()
    progress = tqdm(range(first, args.steps), initial=first, total=args.steps, mininterval=10)
    seeds = range(2 * args.seed * 1_000_000, 2 * (args.seed + 1) * 1_000_000, 2)
    drawer = ThreadPoolExecutor(1)  # draws the next batch meanwhile

    def draw(step):
        return drawer.submit(pictures.batch, args.singles, args.collages, seeds[step], step >= ICONS * args.steps)

    coming = draw(first)
    for step in progress:
        kept, seed = PATCHES if step >= ALL * args.steps else KEPT, seeds[step]
        batch, coming = coming.result().to(device), draw(step + 1)
        losses = step_losses(clip, batch, args.singles, kept, torch.Generator().manual_seed(seed + 1))
        loss = sum(WEIGHTS[name] * value for name, value in losses.items())
        clip.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        for part in (*optimizers, *schedulers):
            part.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(100))
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        if step % 50 == 0:
            scale = clip.logit_scale.exp().item()
            shown = " ".join(f"{name} {value.item():.2f}" for name, value in losses.items())
            progress.set_postfix_str(f"{shown} scale {scale:.1f}")
        if (step + 1) % args.save_every == 0:
            save_checkpoint(checkpoint, run=run, step=step + 1,
                            seconds=seconds + time.time() - start, model=clip.state_dict(),
                            training=[part.state_dict() for part in (*optimizers, *schedulers)])  # fmt: skip
    seconds += time.time() - start
    recipe = f"scripts/embedded/pretrain.py --steps {args.steps} --seed {args.seed}"
    save_weights(clip, token_ids, args.out, recipe, args.seed)
    checkpoint.unlink(missing_ok=True)
    print(f"Wrote {args.out} after {seconds:.0f} s of training")
