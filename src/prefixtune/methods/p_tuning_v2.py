"""P-Tuning v2: free keys and values in every layer (Liu et al. 2022, arXiv 2110.07602)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefixtune.prefix import FreePrefix, KeysValues, Method, Prefix, Slot, keys_values_from, random_keys_values


@dataclass(kw_only=True)
class PTuningV2(Method):
    """Free keys and values, trained directly. Source: P-Tuning v2, section 3."""

    length: int | None = 16
    """Prefix length P: how many key/value vectors every layer gets. None: as many as the starting text has tokens."""

    init: str = "random"
    """Start of keys and values: 'random', 'zeros' or 'text:<words>'."""

    init_std: float = 1.0
    """Standard deviation of a random start; 1 is that of the authors' embedding table."""

    @property
    def start(self) -> str:
        return self.init

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return FreePrefix(self, slots, start or random_keys_values(slots, self.init_std, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return FreePrefix(self, slots, keys_values_from(folded, slots))
