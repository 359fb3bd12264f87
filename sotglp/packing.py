"""Prompts of unequal length, packed into rows: several whole prompts in a row, so that few positions are padding.

Letters: C classes, R rows, L positions of a row, S positions that all classes share, E prompts in a row.
"""

import math
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

import torch

ROW = 64  # positions of a row, about: attention to other prompts' positions is cheap


class Rows(NamedTuple):
    """Where the prompts of C classes stand in R rows of L positions."""

    classes: torch.Tensor  # (R, L) whose prompt stands there; any class at padding
    places: torch.Tensor  # (R, L) position in that prompt
    visible: torch.Tensor  # (R, 1, L, S + L) what a position attends to: S shared ones, its own prompt up to itself
    ends: torch.Tensor  # (R, E) where the EOTs stand; 0 beyond those of a row
    order: torch.Tensor | None  # (C,) where the EOT of a class is among the R E; None in a part of the rows

    def part(self, start: int, stop: int) -> "Rows":
        """Return the rows from ``start`` to ``stop``."""
        classes, places, visible, ends = (t[start:stop] for t in self[:4])
        return Rows(classes, places, visible, ends, None)


@lru_cache(maxsize=16)  # of a model's branches, in training the same at each step
def pack(lengths: tuple[int, ...], shared: int, device: torch.device, apart: bool = False) -> Rows:
    """Return rows for prompts of so many positions after the first ``shared`` ones; with ``apart``, one in each row."""
    rows = [[c] for c in range(len(lengths))] if apart else fill(lengths)
    width = max(sum(lengths[c] for c in row) for row in rows)
    owner = torch.full((len(rows), width), -1)
    places, ends = torch.full_like(owner, shared), torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    order = torch.empty(len(lengths), dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for e, c in enumerate(row):
            stop = start + lengths[c]
            owner[r, start:stop], places[r, start:stop] = c, torch.arange(shared, shared + lengths[c])
            ends[r, e], order[c], start = stop - 1, r * ends.shape[1] + e, stop
    own = (owner[:, :, None] == owner[:, None]).tril()
    visible = torch.cat([own.new_ones(*owner.shape, shared), own], dim=-1)[:, None]
    return Rows(*(t.to(device) for t in (owner.clamp(min=0), places, visible, ends, order)))


def fill(lengths: tuple[int, ...]) -> list[list[int]]:
    """Return rows of prompts, about equally long in all."""
    n_rows = math.ceil(sum(lengths) / max(*lengths, ROW))
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    filled = [(0, r) for r in range(n_rows)]
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):  # the long ones first: rows end up alike
        used, r = heappop(filled)
        rows[r].append(c)
        heappush(filled, (used + lengths[c], r))
    return rows
