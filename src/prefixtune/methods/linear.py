"""A prefix that is attended to without a softmax: what a query finds there is linear in the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from prefixtune.attention import AttentionCall
from prefixtune.prefix import AddressedByContent, FreePrefix, KeysValues, Prefix, Slot
from prefixtune.separate import linear_attention


@dataclass(kw_only=True)
class LinearPrefix(AddressedByContent):
    """`attention(tokens) + scale * (q . K_p) V_p`, q not turned by its position, `V_p = 0` at the start.

    A softmax shares one unit of attention among P positions and so can only mix their values; here each position
    answers for itself, with either sign. A rotary embedding's turn is undone, as in `content`. Wants rates of a LoRA
    rather than of a prefix, and no dropout. Not in the papers; that a prefix is an adapter of the attention with a
    softmax for its activation: He et al. 2022 (arXiv 2110.04366), section 3.1.
    """

    length: int | None = 16
    """Prefix length P: how many key/value vectors every layer gets. None: as many as `lengths` says."""

    def prefix(self, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> Prefix:
        return LinearlyAttended(self, slots, start)


class LinearlyAttended(FreePrefix):
    """Free keys and values without a softmax, under queries without their position."""

    by_content = True

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return linear_attention(call, *self.keys_values_for(slot, call))
