"""Rectified Adam (Liu et al., arXiv 1908.03265)."""

import torch


class RAdam(torch.optim.RAdam):
    """torch's RAdam with weight decay decoupled from the gradient, as in the authors' code."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)
