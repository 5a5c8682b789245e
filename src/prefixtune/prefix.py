"""What every method shares: the options that say where a prefix goes, and the abstract prefix that attends there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefixtune import kinds
from prefixtune.attention import AttentionCall, joint_attention
from prefixtune.errors import ConfigError, near_miss
from prefixtune.geometry import SITES, Geometry, Layer

KeysValues = tuple[Tensor, Tensor]
"""Keys `[G, P, Dk]` and values `[G, P, Dv]` of one layer."""

WINDOWS = ("pinned", "scroll")


@dataclass(frozen=True)
class Slot:
    """One layer that a prefix reaches, and how long the prefix is there."""

    layer: Layer
    length: int

    @property
    def key(self) -> str:
        """`{site}.{layer}`, the name on disk."""
        return f"{self.layer.site}.{self.layer.index}"

    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes of keys `[G, P, Dk]` and values `[G, P, Dv]`."""
        layer = self.layer
        return (layer.groups, self.length, layer.key_size), (layer.groups, self.length, layer.value_size)


@dataclass(kw_only=True)
class Method(ABC):
    """How a prefix is parameterised and attended to. A method is one file; its dataclass is its configuration."""

    starts_as_no_op: ClassVar[bool] = False
    """Whether a model under a fresh prefix of this method is exactly the base model."""

    length: int | None = 10
    """Prefix length P: how many key/value vectors every layer gets. None: as many as the starting text has tokens."""

    lengths: Sequence[int] | Mapping[str, Sequence[int]] | None = None
    """One length per layer, instead of `length`; 0 leaves a layer out. By site where sites differ in depth."""

    sites: Sequence[str] | None = None
    """Which attention gets a prefix: encoder, decoder, cross. Default: all the model has."""

    layers: Sequence[int] | None = None
    """Which layers of each site get a prefix, counted from 0. Default: all."""

    position_offset: int | Mapping[str, int] | None = None
    """Where the first real token stands. Default: P in a decoder-only model, 0 elsewhere."""

    dropout: float = 0.0
    """Probability of dropping an element of the prefix's keys and values while training, drawn anew for each row."""

    window: str = "pinned"
    """In sliding-window layers: 'pinned' keeps the prefix visible to all, 'scroll' lets it leave with the window."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), str(field.type))
        _check_places("sites", self.sites, str)
        _check_places("layers", self.layers, int)
        for lengths in self.lengths.values() if isinstance(self.lengths, Mapping) else [self.lengths]:
            _check_lengths(lengths)
        if self.length is not None and self.length < 1:
            raise ConfigError(f"length={self.length}: a prefix has at least one position; expected length >= 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout}: expected a probability in [0, 1)")
        if self.window not in WINDOWS:
            raise ConfigError(f"window={self.window!r} is unknown{near_miss(self.window, WINDOWS)}")
        places = {"lengths": self.lengths, "position_offset": self.position_offset}
        by_site = {name: tuple(given) for name, given in places.items() if isinstance(given, Mapping)}
        for name, sites in {"sites": self.sites or (), **by_site}.items():
            for site in sites:
                if site not in SITES:
                    raise ConfigError(f"{name}: {site!r} is unknown{near_miss(site, SITES)}")
        offset = self.position_offset
        for given in offset.values() if isinstance(offset, Mapping) else [offset]:
            if given is not None and not kinds.is_whole(given):
                raise ConfigError(f"position_offset={given!r}: expected a whole number, or one for each site")
            if given is not None and given < 0:
                raise ConfigError(f"position_offset={given}: no token stands before position 0; expected 0 or more")

    @classmethod
    def name(cls) -> str:
        """The method's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    def options(self) -> dict[str, Any]:
        """Every option, as JSON can hold it."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @property
    @abstractmethod
    def start(self) -> str:
        """Where keys and values start: 'random', 'zeros' or 'text:<words>'."""

    def check(self, slots: Sequence[Slot]) -> None:  # noqa: B027 - most methods have nothing of their own to check
        """Raise ConfigError when this method cannot work on these layers. The common checks are made elsewhere."""

    @abstractmethod
    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        """A fresh trainable prefix; `start` holds keys and values for each slot's key, or None for random ones."""

    @abstractmethod
    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        """The prefix from its folded tensors, as `Prefix.fold` named them."""


_KINDS = {"int": int, "float": float, "bool": bool, "str": str}


def _check_kind(name: str, value: Any, declared: str) -> None:
    """Raise ConfigError for another kind of value than the field's; fields of lists or methods are not judged."""
    named = [kind for kind in declared.split(" | ") if kind != "None"]
    if not set(named) <= set(_KINDS) or (value is None and "None" in declared):
        return
    endless = isinstance(value, float) and not math.isfinite(value)
    if endless or not any(kinds.is_of(value, _KINDS[kind]) for kind in named):
        raise ConfigError(f"{name}={value!r}: expected {' or '.join(kinds.told(_KINDS[kind]) for kind in named)}")
    if name.endswith("_std") and value < 0:
        raise ConfigError(f"{name}={value}: a standard deviation is not negative; expected 0 or more")


def _check_places(name: str, given: Any, kind: type) -> None:
    if given is None:
        return
    told = "layers by their numbers, as in [0, 1]" if kind is int else "names, as in ['encoder']"
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(type(item) is kind for item in given):
        raise ConfigError(f"{name}={given!r}: expected {told}")
    if twice := [item for item in given if given.count(item) > 1]:
        raise ConfigError(f"{name}={given!r}: {twice[0]!r} appears twice; expected each once")


def _check_lengths(given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(map(kinds.is_whole, given)):
        raise ConfigError(
            f"lengths: {given!r} is no list of whole numbers; expected one length for each layer, as in [3, 4], or "
            "such a list for each site"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, (tuple, list)) else value


def plan(method: Method, geometry: Geometry, length: int | None) -> tuple[Slot, ...]:
    """The slots `method` asks for on a model of this geometry; `length` replaces a `method.length` of None.

    Raises ConfigError for a site or layer the model does not have and for lengths of the wrong count.
    """
    sites = tuple(method.sites) if method.sites is not None else geometry.sites
    for site in sites:
        if site not in geometry.sites:
            raise ConfigError(f"{geometry.model_class} has no {site!r} attention; it has: {', '.join(geometry.sites)}")
    for site in method.lengths if isinstance(method.lengths, Mapping) else ():
        if site not in sites:
            raise ConfigError(f"lengths names {site!r}, which gets no prefix; expected some of: {', '.join(sites)}")
    slots = [slot for site in sites for slot in _plan_site(method, geometry, site, length)]
    if not slots:
        raise ConfigError("no layer gets a prefix: every length is 0 or `layers` is empty; give at least one layer")
    return tuple(slots)


def _plan_site(method: Method, geometry: Geometry, site: str, length: int | None) -> list[Slot]:
    every = geometry.at(site)
    wanted = range(len(every)) if method.layers is None else method.layers
    for index in wanted:
        if not 0 <= index < len(every):
            raise ConfigError(f"layers: {index} is not a layer of {site}; expected 0 to {len(every) - 1}")
    chosen = [every[index] for index in wanted]
    lengths = method.lengths.get(site) if isinstance(method.lengths, Mapping) else method.lengths
    if lengths is None:
        fixed = method.length if method.length is not None else length
        if fixed is None:
            raise ConfigError("length is None and there is no text to take it from; give length, lengths or a text")
        lengths = [fixed] * len(chosen)
    if len(lengths) != len(chosen):
        raise ConfigError(
            f"lengths has {len(lengths)} entries but {site} has {len(chosen)} layers to fill; give one length per layer"
            " (0 leaves a layer out), or {site: lengths} where sites differ in depth"
        )
    if min(lengths, default=0) < 0:
        raise ConfigError(f"lengths={list(lengths)}: a length cannot be negative")
    return [Slot(layer, size) for layer, size in zip(chosen, lengths, strict=True) if size > 0]


class Prefix(nn.Module, ABC):
    """Keys and values for some layers of a frozen model, and how they are attended to."""

    by_content: ClassVar[bool] = False
    """Whether it is addressed by queries without the position that a rotary embedding gave them, `call.content`."""

    reads: str = "none"
    """What the gates read of the input: 'token', 'first', 'mean' or 'none'."""

    def __init__(self, method: Method, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.method = method
        self.slots = {slot.key: slot for slot in slots}
        self.offsets = text_starts(method, slots)

    @abstractmethod
    def keys_values(self, slot: Slot) -> KeysValues:
        """Keys `[G, P, Dk]` and values `[G, P, Dv]` of one layer, computed from the parameters anew at each call."""

    def made_ahead(self, sites: Sequence[str]) -> Mapping[str, KeysValues]:
        """Keys and values by slot key that are cheaper made at once, before a stack's first layer; most have none.

        They belong to one forward. Made before any layer, they are also right under gradient checkpointing, which runs
        layers a second time.
        """
        return {}

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        """The attention of one layer under this prefix: `[B, T, H, Dv]`, and weights where the model gives them."""
        return joint_attention(call, *self.keys_values_for(slot, call), gate=self.gate(call, slot))

    @property
    def joint(self) -> bool:
        """Whether prefix and text share one softmax, by `keys_values_for` and `gate` alone: `attend` is not its own."""
        return type(self).attend is Prefix.attend

    @property
    def gated(self) -> bool:
        """Whether it has gates: `gate` is its own."""
        return type(self).gate is not Prefix.gate

    @abstractmethod
    def fold(self) -> dict[str, Tensor]:
        """All that a served prefix needs, by name on disk: `{site}.{layer}.key|value` and gates; no train-time part."""

    def gate(self, call: AttentionCall, slot: Slot) -> Tensor | None:
        """How far each prefix position is open, `[B|1, T|1, P]`; None for a prefix without gates."""
        return None

    def plain_keys_values(self, slot: Slot) -> KeysValues:
        """Keys and values that act alike in any engine's key/value cache; ConfigError when there are none such."""
        if not self.joint:
            raise ConfigError(
                f"{self.method.name()} attends to the prefix outside the text's softmax, which no key/value cache can "
                "hold; expected a joint method (prefix_tuning, p_tuning_v2, cartridge) to export"
            )
        return self.keys_values(slot)

    @property
    def drops(self) -> bool:
        """Whether rows have keys and values of their own just now, under the method's dropout."""
        return bool(self.method.dropout) and self.training

    def keys_values_for(self, slot: Slot, call: AttentionCall) -> KeysValues:
        """Keys and values of one layer for a call, whose forward may have made them ahead.

        `[G, P, D]`, or `[B, G, P, D]` where a dropout gives each row its own, as the code of Prefix-Tuning's and of
        P-Tuning v2's authors does.
        """
        key, value = self.keys_values(slot) if call.made is None else call.made
        return (self._dropped(key, call), self._dropped(value, call)) if self.drops else (key, value)

    def _dropped(self, x: Tensor, call: AttentionCall) -> Tensor:
        """`[G, P, D]` as `[B, G, P, D]`, some of it zero."""
        return F.dropout(x.expand(len(call.query), *x.shape), self.method.dropout)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, by what it is: keys, values, gates, mlp. A run can give each a learning rate of its own."""
        return {}

    def stored_parameters(self) -> int:
        """How many numbers the folded prefix holds."""
        return sum(tensor.numel() for tensor in self.fold().values())


class FreeKeysValues(nn.Module):
    """Keys and values as parameters, one pair for each slot."""

    def __init__(self, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__()
        self.key = nn.ParameterDict({inner_name(slot): nn.Parameter(start[slot.key][0].clone()) for slot in slots})
        self.value = nn.ParameterDict({inner_name(slot): nn.Parameter(start[slot.key][1].clone()) for slot in slots})

    def forward(self, slot: Slot) -> KeysValues:
        """Keys `[G, P, Dk]` and values `[G, P, Dv]` of one layer."""
        return self.key[inner_name(slot)], self.value[inner_name(slot)]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """`Prefix.parts` of these."""
        return {"keys": list(self.key.parameters()), "values": list(self.value.parameters())}


def inner_name(slot: Slot) -> str:
    """A slot's name inside a module, where dots are not allowed."""
    return f"{slot.layer.site}_{slot.layer.index}"


class FreePrefix(Prefix):
    """Keys and values as they are, in one softmax with the tokens. What every joint prefix without gates folds to."""

    def __init__(self, method: Method, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> None:
        super().__init__(method, slots)
        self.free = FreeKeysValues(slots, start)

    def keys_values(self, slot: Slot) -> KeysValues:
        return self.free(slot)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return self.free.parts()

    def fold(self) -> dict[str, Tensor]:
        return folded_keys_values(self)


def folded_keys_values(prefix: Prefix) -> dict[str, Tensor]:
    """`{site}.{layer}.key|value` of every slot."""
    folded = {}
    with torch.no_grad():
        for name, slot in prefix.slots.items():
            key, value = prefix.keys_values(slot)
            folded[f"{name}.key"], folded[f"{name}.value"] = key.detach().clone(), value.detach().clone()
    return folded


def keys_values_from(folded: Mapping[str, Tensor], slots: Sequence[Slot]) -> dict[str, KeysValues]:
    """The inverse of `folded_keys_values`."""
    return {slot.key: (folded[f"{slot.key}.key"], folded[f"{slot.key}.value"]) for slot in slots}


def random_keys_values(slots: Sequence[Slot], std: float, dtype: torch.dtype) -> dict[str, KeysValues]:
    """Normal keys and values of standard deviation `std`, from torch's own random state."""
    return {
        slot.key: (torch.randn(key, dtype=dtype) * std, torch.randn(value, dtype=dtype) * std)
        for slot in slots
        for key, value in [slot.shapes()]
    }


@dataclass(kw_only=True)
class AddressedByContent(Method):
    """A prefix beside the text's softmax that starts with random keys and values of zero, under which it is none."""

    starts_as_no_op: ClassVar[bool] = True

    length: int | None = 10
    """Prefix length P: how many key/value vectors every layer gets. None: as many as `lengths` says."""

    position_offset: int | Mapping[str, int] | None = 0
    """Where the first real token stands. Default: 0, where it stands in the base model."""

    init_std: float = 1.0
    """Standard deviation of the keys at the start, which are random; values start at zero."""

    @property
    def start(self) -> str:
        return "random"

    @abstractmethod
    def prefix(self, slots: Sequence[Slot], start: Mapping[str, KeysValues]) -> Prefix:
        """The prefix with these keys and values."""

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return self.prefix(slots, random_keys(slots, self.init_std, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return self.prefix(slots, keys_values_from(folded, slots))


def random_keys(slots: Sequence[Slot], std: float, dtype: torch.dtype) -> dict[str, KeysValues]:
    """Normal keys of standard deviation `std` and values of zero, under which a prefix outside the softmax is none."""
    return {name: (key, value * 0) for name, (key, value) in random_keys_values(slots, std, dtype).items()}


def text_starts(method: Method, slots: Sequence[Slot]) -> dict[str, int]:
    """Where the first real token stands in the encoder and in the decoder stack."""
    return {site: _text_start(method, slots, site) for site in ("encoder", "decoder")}


def _text_start(method: Method, slots: Sequence[Slot], site: str) -> int:
    given = method.position_offset
    given = given.get(site) if isinstance(given, Mapping) else given
    if given is not None:
        return given
    decoder_only = site == "decoder" and not slots[0].layer.encoder_decoder
    return max((slot.length for slot in slots if slot.layer.site == "decoder"), default=0) if decoder_only else 0
