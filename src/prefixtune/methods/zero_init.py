"""Zero-init attention: a separate softmax over the prefix behind a gate that starts at zero (LLaMA-Adapter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError
from prefixtune.prefix import (
    FreeKeysValues,
    KeysValues,
    Method,
    Prefix,
    Slot,
    folded_keys_values,
    inner_name,
    keys_values_from,
    random_keys_values,
)
from prefixtune.separate import separate_attention


@dataclass(kw_only=True)
class ZeroInitPrefix(Method):
    """`attention(tokens) + tanh(g_h) * attention(prefix)`, `g = 0` at the start: exactly the base model.

    One g for each head and layer. Source: LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199), section 3.2.
    """

    starts_as_no_op: ClassVar[bool] = True

    position_offset: int | Mapping[str, int] | None = 0
    """Where the first real token stands. Default: 0, where it stands in the base model."""

    init: str = "random"
    """Start of keys and values: 'random' or 'text:<words>'."""

    init_std: float = 1.0
    """Standard deviation of a random start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "zeros":  # with g = 0 as well, no parameter would ever get a gradient
            raise ConfigError("init='zeros' under a zero gate can never train; expected 'random' or 'text:<words>'")

    @property
    def start(self) -> str:
        return self.init

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return SeparatePrefix(self, slots, start or random_keys_values(slots, self.init_std, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        prefix = SeparatePrefix(self, slots, keys_values_from(folded, slots))
        with torch.no_grad():
            for slot in slots:
                prefix.factors[inner_name(slot)].copy_(folded[f"{slot.key}.zero_gate"])
        return prefix


class SeparatePrefix(Prefix):
    """Free keys and values in a softmax of their own."""

    def __init__(self, method: ZeroInitPrefix, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__(method, slots)
        self.free = FreeKeysValues(slots, start)
        self.factors = nn.ParameterDict(
            {
                inner_name(slot): nn.Parameter(torch.zeros(slot.layer.heads, dtype=start[slot.key][0].dtype))
                for slot in slots
            }
        )

    def keys_values(self, slot: Slot) -> KeysValues:
        return self.free(slot)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return self.free.parts() | {"gates": list(self.factors.parameters())}

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return separate_attention(
            call, *self.keys_values_for(slot, call), factor=torch.tanh(self.factors[inner_name(slot)])
        )

    def fold(self) -> dict[str, Tensor]:
        gates = {
            f"{name}.zero_gate": self.factors[inner_name(slot)].detach().clone() for name, slot in self.slots.items()
        }
        return folded_keys_values(self) | gates
