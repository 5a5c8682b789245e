"""Cartridges: the keys and values of a text as the start, its first tokens frozen (Eyuboglu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefixtune.errors import ConfigError
from prefixtune.prefix import KeysValues, Method, Prefix, Slot, folded_keys_values, keys_values_from


@dataclass(kw_only=True)
class Cartridge(Method):
    """A text's own keys and values, trained on from there. Source: Cartridges, arXiv 2506.06266, section 3."""

    text: str = ""
    """The text that the prefix starts as."""

    length: int | None = None
    """How many of the text's tokens to keep, from the first. Default: all."""

    frozen_tokens: int = 1
    """How many of the first tokens stay as they are: the first one is an attention sink."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text.strip():
            raise ConfigError("Cartridge needs a text; give text='...'")
        if self.frozen_tokens < 0:
            raise ConfigError(f"frozen_tokens={self.frozen_tokens}: expected 0 or more")

    @property
    def start(self) -> str:
        return f"text:{self.text}"

    def check(self, slots: Sequence[Slot]) -> None:
        shortest = min(slot.length for slot in slots)
        if self.frozen_tokens >= shortest:
            raise ConfigError(
                f"frozen_tokens={self.frozen_tokens} leaves nothing to train of a prefix of length {shortest}; "
                "expected fewer frozen tokens or a longer text"
            )

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        assert start is not None
        return CartridgePrefix(self, slots, start)

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return CartridgePrefix(self, slots, keys_values_from(folded, slots))


class CartridgePrefix(Prefix):
    """Keys and values of which the first tokens are constants."""

    def __init__(self, method: Cartridge, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__(method, slots)
        self.trained = nn.ParameterDict()
        for slot in slots:
            for kind, tensor in zip(("key", "value"), start[slot.key], strict=True):
                name = _inner(slot, kind)
                self.register_buffer(f"frozen_{name}", tensor[:, : method.frozen_tokens].clone())
                self.trained[name] = nn.Parameter(tensor[:, method.frozen_tokens :].clone())

    def keys_values(self, slot: Slot) -> KeysValues:
        return self._whole(slot, "key"), self._whole(slot, "value")

    def _whole(self, slot: Slot, kind: str) -> Tensor:
        name = _inner(slot, kind)
        return torch.cat([self.get_buffer(f"frozen_{name}"), self.trained[name]], dim=1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {
            f"{kind}s": [self.trained[_inner(slot, kind)] for slot in self.slots.values()] for kind in ("key", "value")
        }

    def fold(self) -> dict[str, Tensor]:
        return folded_keys_values(self)


def _inner(slot: Slot, kind: str) -> str:
    return f"{slot.layer.site}_{slot.layer.index}_{kind}"
