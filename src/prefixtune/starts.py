"""What the first token of each row was, kept with a cache: a gate that reads it stays the same for a whole generation.

It is kept in the cache itself, so that a copy of the cache has it, too, and follows the cache's rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

_PLACE = "_prefixtune_starts"

Starts = dict[str, Tensor]
"""By slot, the hidden state of each row's first token, `[B, d]`."""


def keep(cache: Cache, starts: Starts) -> None:
    """Keep `starts` with the cache."""
    own = vars(cache)
    own[_PLACE] = starts
    for name in _MOVES:
        own[name] = _Moving(cache, name)


def kept(cache: Cache | None) -> Starts:
    """What was kept with the cache; nothing where it was filled without the prefix."""
    return {} if cache is None else vars(cache).get(_PLACE, {})


def _selected(start: Tensor, indices: Tensor) -> Tensor:
    return start[indices.to(start.device)]


def _repeated(start: Tensor, times: int) -> Tensor:
    return start.repeat_interleave(times, 0)


_MOVES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "batch_select_indices": _selected,
    "reorder_cache": _selected,
    "batch_repeat_interleave": _repeated,
}
"""The methods of a cache that move its rows, and what they do to a start."""


class _Moving:
    """A method of a cache that moves its rows, of what is kept as well.

    It stands in the cache itself, so it does not own it: a cache is freed with its last user, not by the collector.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name = weakref.ref(cache), name

    def __reduce__(self) -> tuple[type[_Moving], tuple[Cache | None, str]]:
        """A copy or a pickle of a cache takes one of its own along."""
        return _Moving, (self._cache(), self._name)

    def __call__(self, rows: Any) -> None:
        cache = self._cache()
        assert cache is not None  # it is asked for of the cache
        getattr(type(cache), self._name)(cache, rows)
        vars(cache)[_PLACE] = {name: _MOVES[self._name](start, rows) for name, start in kept(cache).items()}
