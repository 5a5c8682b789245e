"""Zero-init attention: a separate softmax over the prefix behind a gate that starts at zero (LLaMA-Adapter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from prefixtune.attention import AttentionCall, separate_attention
from prefixtune.errors import ConfigError
from prefixtune.prefix import KeysValues, Method, Prefix, Slot, folded_keys_values, keys_values_from, random_keys_values


@dataclass(kw_only=True)
class ZeroInitPrefix(Method):
    """`attention(tokens) + tanh(g_h) * attention(prefix)`, `g = 0` at the start: exactly the base model.

    One g for each head and layer. Source: LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199), section 3.2.
    """

    starts_as_no_op: ClassVar[bool] = True

    init: str = "random"
    """Start of keys and values: 'random', 'zeros' or 'text:<words>'."""

    init_std: float = 1.0
    """Standard deviation of a random start."""

    @property
    def start(self) -> str:
        return self.init

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return SeparatePrefix(self, slots, start or random_keys_values(slots, self.init_std, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        prefix = SeparatePrefix(self, slots, keys_values_from(folded, slots))
        with torch.no_grad():
            for slot in slots:
                prefix.factors[_inner(slot)].copy_(folded[f"{slot.key}.zero_gate"])
        return prefix


class SeparatePrefix(Prefix):
    """Free keys and values in a softmax of their own."""

    def __init__(self, method: ZeroInitPrefix, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__(method, slots)
        self.keys = nn.ParameterDict({_inner(slot): nn.Parameter(start[slot.key][0].clone()) for slot in slots})
        self.values = nn.ParameterDict({_inner(slot): nn.Parameter(start[slot.key][1].clone()) for slot in slots})
        self.factors = nn.ParameterDict(
            {_inner(slot): nn.Parameter(torch.zeros(slot.layer.heads, dtype=start[slot.key][0].dtype)) for slot in slots}
        )

    def keys_values(self, slot: Slot) -> KeysValues:
        return self.keys[_inner(slot)], self.values[_inner(slot)]

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return separate_attention(call, *self.dropped_keys_values(slot), factor=torch.tanh(self.factors[_inner(slot)]))

    def fold(self) -> dict[str, Tensor]:
        folded = folded_keys_values(self)
        return folded | {f"{name}.zero_gate": self.factors[_inner(slot)].detach().clone() for name, slot in self.slots.items()}

    def plain_keys_values(self, slot: Slot) -> KeysValues:
        raise ConfigError(
            "zero_init attends to the prefix in a softmax of its own, which no key/value cache can hold; "
            "expected a joint method (prefix_tuning, p_tuning_v2, cartridge) to export"
        )


def _inner(slot: Slot) -> str:
    return f"{slot.layer.site}_{slot.layer.index}"
