"""Queries as they were before a rotary embedding (Su et al. 2021, arXiv 2104.09864) turned them by position.

A model hands cosines and sines down to its attention, but not which numbers of a head they turn; that is found by
trial, on one token at two positions: undone rightly, both have the same query.

Axes: B batch, H query heads, T queries, D head size, R turned numbers of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

TOLERANCE, ROUGH_TOLERANCE = 1e-2, 5e-2
"""How far two queries may differ that are the same but for rounding, relative to the largest; rough, in bfloat16.

There rounding alone can leave more than a hundredth; a turn undone wrongly leaves most of a query.
"""


@dataclass(frozen=True)
class Layout:
    """Where the turned numbers are in a head, and which of them are turned together."""

    pairs: bool  # neighbours are turned together; else each number with the one half of R further on
    back: bool  # they are the last R numbers of the head; else the first
    halved: bool  # angles are given once for each two numbers


@dataclass(frozen=True)
class Rotation:
    """By which angles the queries of a call were turned."""

    cos: Tensor  # [B|1, T, R], or R / 2 where the layout is halved
    sin: Tensor
    layout: Layout

    def undo(self, query: Tensor) -> Tensor:
        """The query `[B, H, T, D]` as it was before, up to a constant factor and order of its numbers."""
        cos, sin = (self._spread(x)[:, None].to(query.dtype) for x in (self.cos, self.sin))  # [B|1, 1, T, R]
        R, D = cos.shape[-1], query.shape[-1]
        rest, turned = query.split([D - R, R], -1) if self.layout.back else query.split([R, D - R], -1)[::-1]
        before = turned * cos - self._quarter(turned) * sin
        return torch.cat([rest, before] if self.layout.back else [before, rest], -1)

    def map(self, step: Callable[[Tensor], Tensor]) -> Rotation:
        """The same with other angles."""
        return replace(self, cos=step(self.cos), sin=step(self.sin))

    def _spread(self, x: Tensor) -> Tensor:
        if not self.layout.halved:
            return x
        return x.repeat_interleave(2, -1) if self.layout.pairs else torch.cat([x, x], -1)

    def _quarter(self, x: Tensor) -> Tensor:
        """Turned by a right angle."""
        if self.layout.pairs:
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)


def angles(given: object) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines `[B|1, T, R]`, where `given` is what models hand to their attention as position_embeddings."""
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(x, Tensor) and x.ndim == 3 for x in given):
        return given
    return None


def same(query: Tensor) -> bool:
    """Whether two rows `[2, H, 1, D]` are one query."""
    return gap(query) <= _tolerance(query.dtype)


def gap(query: Tensor) -> float:
    """How far two rows `[2, H, 1, D]` differ, relative to their largest number."""
    query = _widened(query)
    largest = query.abs().max().clamp(min=torch.finfo(query.dtype).tiny)  # queries of zeros are one query
    return ((query[0] - query[1]).abs().max() / largest).item()


def _tolerance(dtype: torch.dtype) -> float:
    return ROUGH_TOLERANCE if dtype == torch.bfloat16 else TOLERANCE


def _widened(x: Tensor) -> Tensor:
    """In float32 at least: what is undone in bfloat16 is rounded once more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def find_layout(query: Tensor, cos: Tensor, sin: Tensor) -> Layout | None:
    """The layout under which the queries `[2, H, 1, D]` of one token at two positions are one; None: there is none.

    The nearest of those within the tolerance, which rounding alone makes wide.
    """
    wide, cos, sin = _widened(query), _widened(cos), _widened(sin)
    gaps = {}
    for halved, pairs, back in product((False, True), repeat=3):
        R = cos.shape[-1] * (1 + halved)
        if R > query.shape[-1] or R % 2:
            continue
        layout = Layout(pairs, back, halved)
        gaps[layout] = gap(Rotation(cos, sin, layout).undo(wide))
    best = min(gaps, key=gaps.__getitem__, default=None)
    return best if best is not None and gaps[best] <= _tolerance(query.dtype) else None
