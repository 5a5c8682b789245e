"""Adaptive Prefix Tuning (APT): token and layer gates on free keys and values (Zhang et al. 2023, arXiv 2305.15212)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError, near_miss
from prefixtune.gating import Origin, token_gate
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

GATE_INPUTS = ("token", "first", "mean", "none")


@dataclass(kw_only=True)
class AdaptivePrefix(Method):
    """APT: `P^_i = lambda_i * alpha_i (.) [P_ik, P_iv]` with `alpha_i = sigmoid(h_{i-1} W_i)`.

    Keys and values are both scaled by the gate. The text of the paper leaves open how h is reduced and where lambda and
    W start; those are options here. Source: APT, section 3, equations 2 and 3.
    """

    length: int | None = 16
    """Prefix length P: how many key/value vectors every layer gets. None: as many as the starting text has tokens."""

    token_gate: bool = True
    """The token gate alpha: how far each prefix position is open, by the input."""

    layer_gate: bool = True
    """The layer gate lambda: one learned scalar a layer."""

    gate_input: str = "token"
    """What alpha reads: 'token' (each query's own state), 'first', 'mean' (encoders only), 'none' (a free vector)."""

    init: str = "random"
    """Start of keys and values: 'random', 'zeros' or 'text:<words>'."""

    init_std: float = 1.0
    """Standard deviation of a random start."""

    layer_gate_start: float = 1.0
    """Where lambda starts."""

    token_gate_std: float = 0.0
    """Standard deviation of W at the start; 0 opens every position half (sigmoid of 0)."""

    token_gate_bias: bool = False
    """Whether alpha's linear map has a bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate_input not in GATE_INPUTS:
            raise ConfigError(f"gate_input={self.gate_input!r} is unknown{near_miss(self.gate_input, GATE_INPUTS)}")

    @property
    def start(self) -> str:
        return self.init

    def check(self, slots: Sequence[Slot]) -> None:
        causal = sorted({slot.layer.site for slot in slots if slot.layer.site != "encoder"})
        if self.token_gate and self.gate_input == "mean" and causal:
            raise ConfigError(
                f"gate_input='mean' reads the whole input and would leak the future into a causal model ({causal[0]} "
                "attention); expected 'token', 'first' or 'none', or sites=['encoder']"
            )

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return GatedPrefix(self, slots, start or random_keys_values(slots, self.init_std, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        prefix = GatedPrefix(self, slots, keys_values_from(folded, slots))
        with torch.no_grad():
            for slot in slots:
                for kind, parameter in prefix.gates[inner_name(slot)].named_parameters():
                    parameter.copy_(folded[f"{slot.key}.{kind}"])
        return prefix


class LayerGates(nn.Module):
    """Both gates of one layer."""

    def __init__(self, method: AdaptivePrefix, slot: Slot, dtype: torch.dtype) -> None:
        super().__init__()
        self.reads = method.gate_input
        if method.layer_gate:
            self.layer_gate = nn.Parameter(torch.tensor(method.layer_gate_start, dtype=dtype))  # lambda
        else:
            self.register_parameter("layer_gate", None)
        self.token_gate: TokenGate | None = None
        if method.token_gate:
            inputs = 0 if self.reads == "none" else slot.layer.hidden
            self.token_gate = TokenGate(inputs, slot.length, method.token_gate_std, method.token_gate_bias, dtype)

    def forward(self, states: Tensor, origin: Origin | None = None) -> Tensor:
        """`lambda * alpha`, `[B|1, T|1, P|1]`, from the states `[B, T|1, d]` that alpha reads."""
        if self.token_gate is not None:
            return self.token_gate(states, self.layer_gate, origin)
        gate = states.new_ones(1, 1, 1)
        return gate if self.layer_gate is None else self.layer_gate * gate


class TokenGate(nn.Module):
    """lambda times alpha: `sigmoid(h W)`; with no inputs (`inputs = 0`), `sigmoid` of a free vector."""

    def __init__(self, inputs: int, length: int, std: float, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max(inputs, 1), length, dtype=dtype) * std)
        self.bias = nn.Parameter(torch.zeros(length, dtype=dtype)) if bias and inputs else None
        self.inputs = inputs

    def forward(self, states: Tensor, layer_gate: Tensor | None, origin: Origin | None) -> Tensor:
        """states `[B, T, d]` to `[B, T, P]`, or to `[1, 1, P]` when nothing is read."""
        if self.inputs:
            return token_gate(states, self.weight, self.bias, layer_gate, origin)
        gate = torch.sigmoid(self.weight[None])
        return gate if layer_gate is None else layer_gate * gate


class GatedPrefix(Prefix):
    """Free keys and values under the gates of APT."""

    def __init__(self, method: AdaptivePrefix, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__(method, slots)
        self.reads = method.gate_input
        self.free = FreeKeysValues(slots, start)
        dtype = start[slots[0].key][0].dtype
        self.gates = nn.ModuleDict({inner_name(slot): LayerGates(method, slot, dtype) for slot in slots})

    def keys_values(self, slot: Slot) -> KeysValues:
        return self.free(slot)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return self.free.parts() | {"gates": list(self.gates.parameters())}

    def gate(self, call: AttentionCall, slot: Slot) -> Tensor | None:
        origin = call.origin if self.reads == "token" else None
        gate: Tensor = self.gates[inner_name(slot)](self._states(call), origin)
        return gate if gate.shape[2] == slot.length else gate.expand(-1, -1, slot.length)

    def _states(self, call: AttentionCall) -> Tensor:
        """What alpha reads, `[B, T|1, d]`."""
        if call.hidden is None:
            raise ConfigError(
                f"{type(call.module).__name__} was called without hidden states, which a token gate reads"
            )
        if self.reads == "first":
            assert call.start is not None  # the seam brings it for every prefix that reads 'first'
            return call.start[:, None]
        if self.reads == "mean" and call.real is not None:
            weight = call.real[..., None].to(call.hidden.dtype)  # [B, T, 1]
            text = weight.sum(1, keepdim=True).clamp(min=1)  # a NaN in a row of padding would reach every gradient
            return (call.hidden * weight).sum(1, keepdim=True) / text
        return call.hidden.mean(1, keepdim=True) if self.reads == "mean" else call.hidden

    def fold(self) -> dict[str, Tensor]:
        folded = folded_keys_values(self)
        for name, slot in self.slots.items():
            for kind, parameter in self.gates[inner_name(slot)].named_parameters():
                folded[f"{name}.{kind}"] = parameter.detach().clone()
        return folded

    def plain_keys_values(self, slot: Slot) -> KeysValues:
        """Gates that read no input (layer gates, `none`) are folded into keys and values; others cannot be."""
        gates = self.gates[inner_name(slot)]
        if gates.token_gate is not None and self.reads != "none":
            raise ConfigError(
                f"gate_input={self.reads!r} depends on the input and cannot be exported as plain keys and values; "
                "expected gate_input='none' or token_gate=False"
            )
        key, value = self.keys_values(slot)
        factor = gates(key).transpose(1, 2)  # [1, P|1, 1]
        return key * factor, value * factor
