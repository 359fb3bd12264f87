"""Whether the patches that a trained run keeps lie on the object, on a data set whose boxes are known.

Letters: B images, P patches, C classes, K patches of a support, N prompts.
"""

import torch
from tqdm import tqdm

from datasets.scenes import patches_inside
from scripts.prompt_figures import between_prompts, entropy, overlap, spread_out

K = 10  # patches of a method that has no support


def of_image(match, inside, labels):
    """Return {column: (B,)} of a match with patches.

    Args:
        match: of B images.
        inside: (B, P) bool, the patches in the object's box.
        labels: (B,) true classes.
    """
    rows = torch.arange(len(labels))
    s = match.s.float()[rows, :, labels]
    support, plan = getattr(match, "support", None), getattr(match, "plan", None)
    kept = s.topk(K, dim=1).indices if support is None else support[rows, labels]
    values = {
        "support in the box": 100 * inside.gather(1, kept.flatten(1)).float().mean(dim=1),
        "best patch in it": 100 * inside[rows, s.argmax(dim=1)].float(),
        "chance": 100 * inside.float().mean(dim=1),
    }
    if plan is not None and plan.shape[-1] > 1:
        plan = plan[rows, labels].float()
        if support is not None:
            plan = spread_out(kept, plan, inside.shape[1])
        values |= {"overlap": between_prompts(overlap(plan)), "entropy": entropy(plan).nanmean(dim=1)}
    return values


@torch.no_grad()
def localize(trainer):
    """Return {column: mean over the classes} of a run's test images, "chance" among them; None without patches.

    Args:
        trainer: a CLIPTrainer in evaluation mode, on a data set with ``boxes``.
    """
    boxes, found, labels = trainer.dm.dataset.boxes, [], []
    trainer.text = trainer.model.encode_text()  # once for all images
    for batch in tqdm(trainer.test_loader, desc=type(trainer).__name__, leave=False, disable=None):
        match = trainer.match(trainer.parse_batch_test(batch)[0])
        if match.s is None:
            return None
        inside = patches_inside([boxes[path] for path in batch["impath"]], round(match.s.shape[1] ** 0.5))
        found.append(of_image(to_cpu(match), torch.from_numpy(inside), batch["label"]))
        labels.append(batch["label"])
    labels = torch.cat(labels)
    values = {column: torch.cat([part[column] for part in found]) for column in found[0]}
    classes = labels.unique()
    return {name: torch.stack([v[labels == c].mean() for c in classes]).mean().item() for name, v in values.items()}


def to_cpu(match):
    """Return a match with its tensors on the CPU."""
    return type(match)(*(None if value is None else value.cpu() for value in match))
