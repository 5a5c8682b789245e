"""Prefix-Tuning: a train-time MLP produces keys and values and is folded away on save (Li & Liang 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from prefixtune.errors import ConfigError
from prefixtune.prefix import (
    FreePrefix,
    KeysValues,
    Method,
    Prefix,
    Slot,
    folded_keys_values,
    keys_values_from,
)

FIT_STEPS = 500
FIT_LEARNING_RATE = 1e-4
"""How an MLP is fitted to a text's keys and values: mean squared error, Adam (the paper's low-data set-up)."""


@dataclass(kw_only=True)
class PrefixTuning(Method):
    """Keys and values from a small MLP over P learned vectors, which is dropped after training.

    Embedding(P, d) -> Linear(d, hidden) -> tanh -> Linear(hidden, all keys and values), one for each site.
    Source: Prefix-Tuning, section 4.3, in the parametrisation of the authors' code.
    """

    hidden: int = 512
    """Width of the MLP: 512 for table-to-text, 800 for summarisation in the paper."""

    init: str = "random"
    """Start of keys and values: 'random', 'zeros' or 'text:<words>' (the MLP is fitted to it, as in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"hidden={self.hidden}: the MLP needs a width of at least 1")

    @property
    def start(self) -> str:
        return self.init

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return MlpPrefix(self, slots, start, dtype)

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return FreePrefix(self, slots, keys_values_from(folded, slots))


class Reparametrisation(nn.Module):
    """The MLP of one site: the inner layer is shared by all layers of the model, each has its share of the outer."""

    def __init__(self, slots: Sequence[Slot], hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        width, longest = slots[0].layer.hidden, max(slot.length for slot in slots)
        self.embedding = nn.Parameter(torch.randn(longest, width, dtype=dtype))  # P'
        self.inner = nn.Linear(width, hidden, dtype=dtype)
        self.outer = nn.ModuleDict(
            {str(slot.layer.index): nn.Linear(hidden, _width(slot), dtype=dtype) for slot in slots}
        )

    def states(self) -> Tensor:
        """What all layers share, `[P, hidden]`, P the longest length."""
        return torch.tanh(self.inner(self.embedding))

    def forward(self, states: Tensor, slot: Slot) -> KeysValues:
        """Keys `[G, P, Dk]` and values `[G, P, Dv]` of one layer, from the shared states."""
        layer, P = slot.layer, slot.length
        key, value = self.outer[str(layer.index)](states[:P]).split(
            [layer.groups * layer.key_size, layer.groups * layer.value_size], dim=-1
        )
        return key.view(P, layer.groups, -1).transpose(0, 1), value.view(P, layer.groups, -1).transpose(0, 1)


def _width(slot: Slot) -> int:
    return slot.layer.groups * (slot.layer.key_size + slot.layer.value_size)


class MlpPrefix(Prefix):
    """A prefix while it is trained: an independent MLP for each site, plus a constant that makes the start exact."""

    def __init__(
        self, method: PrefixTuning, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype
    ) -> None:
        super().__init__(method, slots)
        by_site = {site: [slot for slot in slots if slot.layer.site == site] for site in {s.layer.site for s in slots}}
        self.mlps = nn.ModuleDict(
            {site: Reparametrisation(of_site, method.hidden, dtype) for site, of_site in sorted(by_site.items())}
        )
        self.has_target = start is not None
        if start is not None:
            if method.start != "zeros":
                self._fit(start)
            self._remember_rest(start)

    def _mlp(self, slot: Slot) -> KeysValues:
        mlp = self._of_site(slot.layer.site)
        return mlp(mlp.states(), slot)

    def _of_site(self, site: str) -> Reparametrisation:
        return cast(Reparametrisation, self.mlps[site])

    def made_ahead(self, sites: Sequence[str]) -> Mapping[str, KeysValues]:
        """All layers at once, so that a step runs the inner layer and its backward once."""
        states = {site: self._of_site(site).states() for site in self.mlps if site in sites}
        return {
            name: self._from_start(slot, *self._of_site(slot.layer.site)(states[slot.layer.site], slot))
            for name, slot in self.slots.items()
            if slot.layer.site in states
        }

    def _fit(self, target: Mapping[str, KeysValues]) -> None:
        optimizer = torch.optim.Adam(self.mlps.parameters(), lr=FIT_LEARNING_RATE)
        with torch.enable_grad():
            for _ in range(FIT_STEPS):
                optimizer.zero_grad(set_to_none=True)
                losses = [
                    nn.functional.mse_loss(ours, theirs)
                    for name, slot in self.slots.items()
                    for ours, theirs in zip(self._mlp(slot), target[name], strict=True)
                ]
                torch.stack(losses).mean().backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _remember_rest(self, target: Mapping[str, KeysValues]) -> None:
        """What the MLP misses of its target, as constants: training starts at the text (or at zero) exactly."""
        with torch.no_grad():
            for name, slot in self.slots.items():
                for kind, ours, theirs in zip(("key", "value"), self._mlp(slot), target[name], strict=True):
                    self.register_buffer(_rest(name, kind), theirs - ours)

    def keys_values(self, slot: Slot) -> KeysValues:
        return self._from_start(slot, *self._mlp(slot))

    def _from_start(self, slot: Slot, key: Tensor, value: Tensor) -> KeysValues:
        if not self.has_target:
            return key, value
        return key + self.get_buffer(_rest(slot.key, "key")), value + self.get_buffer(_rest(slot.key, "value"))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"mlp": list(self.mlps.parameters())}

    def fold(self) -> dict[str, Tensor]:
        return folded_keys_values(self)


def _rest(slot_name: str, kind: str) -> str:
    return f"rest_{slot_name.replace('.', '_')}_{kind}"
