"""A prefix that is attended to without a softmax: what a query finds there is linear in the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError
from prefixtune.prefix import FreePrefix, KeysValues, Method, Prefix, Slot, keys_values_from, random_keys_values
from prefixtune.separate import linear_attention


@dataclass(kw_only=True)
class LinearPrefix(Method):
    """`attention(tokens) + scale * (q . K_p) V_p`, `V_p = 0` at the start: exactly the base model.

    A softmax shares one unit of attention among P positions and so can only mix their values; here each position
    answers for itself, with either sign. Wants rates of a LoRA rather than of a prefix, and no dropout. Not in the
    papers; that a prefix is an adapter of the attention with a softmax for its activation: He et al. 2022
    (arXiv 2110.04366), section 3.1.
    """

    starts_as_no_op: ClassVar[bool] = True

    length: int | None = 16
    """Prefix length P: how many key/value vectors every layer gets. None: as many as the starting text has tokens."""

    position_offset: int | Mapping[str, int] | None = 0
    """Where the first real token stands. Default: 0, where it stands in the base model."""

    init: str = "random"
    """Start of the keys: 'random' or 'text:<words>'. Values start at zero."""

    init_std: float = 1.0
    """Standard deviation of a random start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "zeros":  # with values of zero as well, no parameter would ever get a gradient
            raise ConfigError("init='zeros' under values of zero can never train; expected 'random' or 'text:<words>'")

    @property
    def start(self) -> str:
        return self.init

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        found = start or random_keys_values(slots, self.init_std, dtype)
        return LinearlyAttended(self, slots, {name: (key, value * 0) for name, (key, value) in found.items()})

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return LinearlyAttended(self, slots, keys_values_from(folded, slots))


class LinearlyAttended(FreePrefix):
    """Free keys and values without a softmax."""

    joint = False

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return linear_attention(call, *self.keys_values_for(slot, call.made))

    def plain_keys_values(self, slot: Slot) -> KeysValues:
        raise ConfigError(
            "linear attends to the prefix without a softmax, which no key/value cache can hold; "
            "expected a joint method (prefix_tuning, p_tuning_v2, cartridge) to export"
        )
