"""The training loss: cross-entropies of the global and the local branch."""

import torch
import torch.nn.functional as F


def kept_prompts(n_prompts, p):
    """How many of G global prompts stay under prompt dropout p: max(G - int(p G), 1). ValueError for another p."""
    if not 0 <= p <= 1:
        raise ValueError(f"the prompt dropout is a share from 0 to 1, not {p}")
    return max(n_prompts - int(p * n_prompts), 1)


def draw_prompts(n_images, n_prompts, p, device=None):
    """Prompt dropout: the global prompts (B, kept) that count for each image, drawn with replacement."""
    return torch.randint(max(n_prompts, 1), (n_images, kept_prompts(n_prompts, p)), device=device)


def sotglp_loss(match, targets, logit_scale, drawn):
    """CE(scale * mean of the drawn g) + CE(scale * l): the two terms, each the mean over the B images.

    match: Match of the model; targets (B,) class indices; drawn (B, kept) of ``draw_prompts``. A branch that is left
    out has the term 0.
    """
    loss_global = loss_local = torch.zeros((), device=targets.device)
    if match.g is not None:
        g = match.g.take_along_dim(drawn[:, None], dim=-1).mean(dim=-1)
        loss_global = F.cross_entropy(logit_scale * g.float(), targets)
    if match.l is not None:
        loss_local = F.cross_entropy(logit_scale * match.l.float(), targets)
    return loss_global, loss_local
