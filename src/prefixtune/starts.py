"""What the first token of each row was, kept with a cache: a gate that reads it stays the same for a whole generation.

It is kept in the cache itself, so that a copy of the cache has it, too, and follows the cache's rows.
"""

from __future__ import annotations

import weakref

from torch import Tensor
from transformers.cache_utils import Cache

_PLACE = "_prefixtune_starts"

Starts = dict[str, Tensor]
"""By slot, the hidden state of each row's first token, `[B, d]`."""


def keep(cache: Cache, starts: Starts) -> None:
    """Keep `starts` with the cache."""
    own = vars(cache)
    own[_PLACE] = starts
    own["batch_select_indices"] = _Selection(cache)


def kept(cache: Cache | None) -> Starts:
    """What was kept with the cache; nothing where it was filled without the prefix."""
    return {} if cache is None else vars(cache).get(_PLACE, {})


class _Selection:
    """`Cache.batch_select_indices`, of what is kept as well.

    It stands in the cache itself, so it does not own it: a cache is freed with its last user, not by the collector.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = weakref.ref(cache)

    def __reduce__(self) -> tuple[type[_Selection], tuple[Cache | None]]:
        """A copy or a pickle of a cache takes one of its own along."""
        return _Selection, (self._cache(),)

    def __call__(self, indices: Tensor) -> None:
        cache = self._cache()
        assert cache is not None  # it is asked for of the cache
        type(cache).batch_select_indices(cache, indices)
        own = vars(cache)
        own[_PLACE] = {name: start[indices.to(start.device)] for name, start in kept(cache).items()}
