"""A prefix that is addressed by what a token says, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from prefixtune.attention import AttentionCall
from prefixtune.prefix import AddressedByContent, FreePrefix, KeysValues, Prefix, Slot
from prefixtune.separate import separate_attention


@dataclass(kw_only=True)
class ContentPrefix(AddressedByContent):
    """`attention(tokens) + softmax(scale * q . K_p) V_p`, q not turned by its position, `V_p = 0` at the start.

    A rotary embedding turns every query by its position, and the keys of a prefix in a cache do not turn with it, so
    that the same token finds something else at every position. Here the turn is undone. In a model without a rotary
    embedding this is zero-init attention with values of zero instead of gates. Not in the papers.
    """

    def prefix(self, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> Prefix:
        return ContentSoftmax(self, slots, start)


class ContentSoftmax(FreePrefix):
    """Free keys and values in a softmax of their own, under queries without their position."""

    by_content = True

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        return separate_attention(call, *self.keys_values_for(slot, call))
