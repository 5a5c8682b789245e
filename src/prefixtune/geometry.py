"""What an attention layer looks like at the seam, measured in one tiny forward and never computed from the config.

Config arithmetic is wrong where hidden != heads x head size, under multi-head latent attention, and where layers share
weights; the tensors that reach the attention function are always right.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefixtune import packing
from prefixtune.attention import AttentionFunction, is_causal, plain_attention
from prefixtune.errors import ModelError
from prefixtune.tiny_input import is_encoder_decoder, quiet_evaluation, run_tiny

SITES = ("encoder", "decoder", "cross")
"""Where a prefix can go: encoder self-attention, decoder self-attention, cross-attention."""

# Blocks that are no attention and so never reach the seam; any other block of a reached stack must.
_NOT_ATTENTION = ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "rwkv", "moe", "mlp", "dense")


@dataclass(frozen=True)
class Layer:
    """One attention layer as its tensors were seen: H query heads, G key/value heads, head sizes Dk and Dv."""

    site: str
    index: int  # within its site, in the order of the forward
    module: str  # path inside the model
    turn: int  # which call of that module in one forward (models that share weights between layers call it again)
    stack: str  # path of the innermost PreTrainedModel around it
    heads: int
    groups: int
    key_size: int
    value_size: int
    hidden: int  # width of what the attention module reads
    causal: bool
    window: int | None  # sliding window in tokens
    encoder_decoder: bool  # whether the model has both stacks

    @property
    def block(self) -> tuple[str, int] | None:
        """The path of the list of blocks around it, and its number there: ('model.layers', 3); None: no such list."""
        parts = self.module.split(".")
        return next(((".".join(parts[:i]), int(part)) for i, part in enumerate(parts) if part.isdigit()), None)


@dataclass(frozen=True)
class Geometry:
    """Every attention layer of a model, by site."""

    layers: tuple[Layer, ...]
    model_class: str = field(default="")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites this model has, in the order of `SITES`."""
        present = {layer.site for layer in self.layers}
        return tuple(site for site in SITES if site in present)

    def at(self, site: str) -> tuple[Layer, ...]:
        """The layers of one site, in the order of the forward."""
        return tuple(layer for layer in self.layers if layer.site == site)


@dataclass
class _Seen:
    """One call of the attention function during the measuring forward."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    causal: bool
    hidden: int
    window: int | None


def attention_kind(model: PreTrainedModel, name: str | None) -> str:
    """Which of transformers' two mask conventions a model's attention `name` is run with under a prefix.

    'eager' (additive masks; softcap, sinks) stays eager; sdpa, flash and flex become 'sdpa' where the model has it.
    """
    return "eager" if name is None or name.endswith("eager") or not model._supports_sdpa else "sdpa"


def base_attention(module: nn.Module, kind: str) -> AttentionFunction:
    """The attention function that `module` would call without a prefix: sdpa, or the eager one of its own file."""
    if kind == "sdpa":
        return ALL_ATTENTION_FUNCTIONS["sdpa"]
    beside = vars(sys.modules[type(module).__module__])
    return beside.get("eager_attention_forward", plain_attention)


def attention_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every config object that some module of `model` may ask for its attention implementation, once each."""
    found: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if isinstance(config, PreTrainedConfig):
            found[id(config)] = config
    return list(found.values())


@contextmanager
def implementation(model: PreTrainedModel, rename: Callable[[str], str]) -> Iterator[None]:
    """Run with every config's attention implementation renamed, and put the names back."""
    before = [(config, config._attn_implementation_internal) for config in attention_configs(model)]
    try:
        for config, name in before:
            config._attn_implementation_internal = rename(name or "eager")
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name


_MEASURING = "prefixtune_measuring_"

Record = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]], None]


def observe(model: PreTrainedModel, run: Callable[[], object], record: Record) -> None:
    """`run` the model and show `record` every call of the attention interface: module, q, k, v, mask, options.

    The model's own attention does the work; nothing is left registered or changed afterwards.
    """
    with registered(_MEASURING, lambda kind: _recording(kind, record)), quiet_evaluation(model):
        with implementation(model, lambda name: _MEASURING + attention_kind(model, name)):
            run()


def _recording(kind: str, record: Record) -> AttentionFunction:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> Any:
        record(module, query, key, value, attention_mask, options)
        return base_attention(module, kind)(module, query, key, value, attention_mask, **options)

    return attention


@contextmanager
def registered(prefix: str, make: Callable[[str], AttentionFunction]) -> Iterator[None]:
    """Attention functions and masks registered as `{prefix}sdpa` and `{prefix}eager`, for the time of the context."""
    register(prefix, make)
    try:
        yield
    finally:
        unregister(prefix)


def register(prefix: str, make: Callable[[str], AttentionFunction]) -> None:
    """Register `make(kind)` and the mask function of `kind` under `{prefix}{kind}`, for both kinds."""
    for kind in ("sdpa", "eager"):
        ALL_ATTENTION_FUNCTIONS.register(prefix + kind, make(kind))
        # Without a mask function of the same name, transformers drops the padding mask.
        ALL_MASK_ATTENTION_FUNCTIONS.register(prefix + kind, packing.mask_function(kind))


def unregister(prefix: str) -> None:
    """Take both names out again."""
    for kind in ("sdpa", "eager"):
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(prefix + kind, None)
        ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop(prefix + kind, None)


def measure(model: PreTrainedModel) -> Geometry:
    """Every attention layer of `model` that reaches the attention interface.

    Raises ModelError when no layer, or not every layer of a reached stack, calls the interface.
    """
    seen: list[_Seen] = []
    widths: dict[nn.Module, int] = {}

    def note_width(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        widths[module] = attention_input(module, args, kwargs).shape[-1]

    def record(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> None:
        causal = _sees_no_future(mask, options, module, query)
        seen.append(_Seen(module, query, key, value, causal, widths.get(module, 0), options.get("sliding_window")))

    def look(modules: Iterable[nn.Module]) -> None:
        handles = [module.register_forward_pre_hook(note_width, with_kwargs=True) for module in modules]
        seen.clear()
        try:
            observe(model, lambda: run_tiny(model), record)
        finally:
            for handle in handles:
                handle.remove()

    named = [module for module in model.modules() if "ttention" in type(module).__name__]
    look(module for module in named if not isinstance(module, PreTrainedModel))
    if not widths.keys() >= {call.module for call in seen}:  # an attention by another name
        look({call.module for call in seen})
    return _arrange(model, seen)


def attention_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states `[B, T, d]` that an attention module was called with. Raises ModelError where none are seen."""
    given = kwargs.get("hidden_states")
    given = next((x for x in (given, *args, *kwargs.values()) if isinstance(x, Tensor)), None)
    if given is None:
        raise ModelError(f"{type(module).__name__} was called without hidden states; expected a tensor to read them by")
    return given


HIDDEN = -1e3
"""Below this, a number in a mask hides a key; above, it may be a bias that a model (BEiT) adds by its mask."""


def _sees_no_future(mask: Tensor | None, options: dict[str, Any], module: nn.Module, query: Tensor) -> bool:
    """Whether the first query is kept from the second key."""
    if mask is None:
        return is_causal(mask, options, module, query.shape[2])
    if mask.shape[2] == 1 or mask.shape[3] < 2:
        return False
    corner = mask[0, 0, 0, 1]
    return not bool(corner) if mask.dtype == torch.bool else bool(corner < HIDDEN)


def _arrange(model: PreTrainedModel, seen: list[_Seen]) -> Geometry:
    paths = {module: path for path, module in model.named_modules()}
    turns: Counter[nn.Module] = Counter()
    places: Counter[str] = Counter()
    layers = []
    for call in seen:
        site = _site(model, call, paths[call.module])
        layers.append(
            Layer(
                site=site,
                index=places[site],
                module=paths[call.module],
                turn=turns[call.module],
                stack=_stack_of(model, paths[call.module]),
                heads=call.query.shape[1],
                groups=call.key.shape[1],
                key_size=call.key.shape[3],
                value_size=call.value.shape[3],
                hidden=call.hidden,
                causal=call.causal,
                window=call.window,
                encoder_decoder=is_encoder_decoder(model),
            )
        )
        turns[call.module] += 1
        places[site] += 1
    geometry = Geometry(tuple(layers), type(model).__name__)
    _prove_all_reached(model, geometry)
    return geometry


def _site(model: PreTrainedModel, call: _Seen, path: str) -> str:
    """cross: keys from elsewhere; decoder: causal, or the decoder of an encoder-decoder; else encoder."""
    if call.query.shape[2] != call.key.shape[2]:
        return "cross"
    if call.causal:
        return "decoder"
    return "decoder" if is_encoder_decoder(model) and "decoder" in path.split(".") else "encoder"


def _stack_of(model: PreTrainedModel, path: str) -> str:
    """The path of the innermost PreTrainedModel around the module at `path` ('' is the model itself)."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        outer = ".".join(parts[:end])
        if isinstance(model.get_submodule(outer), PreTrainedModel):
            return outer
    return ""


def _prove_all_reached(model: PreTrainedModel, geometry: Geometry) -> None:
    """n of n: every block of every stack that was reached at all has an attention that calls the interface."""
    name = type(model).__name__
    if not geometry.layers:
        raise ModelError(
            f"{name} never calls transformers' attention interface (0 attention layers reached), so a prefix would be "
            "ignored silently; use a model whose modeling file uses ALL_ATTENTION_FUNCTIONS, or add a file for it "
            "under prefixtune/architectures"
        )
    if is_encoder_decoder(model) and set(geometry.sites) != set(SITES):
        missing = ", ".join(site for site in SITES if site not in geometry.sites)
        raise ModelError(
            f"{name} is an encoder-decoder but its {missing} attention never calls transformers' attention interface; "
            "expected all of encoder, decoder and cross; a file under prefixtune/architectures can route it"
        )
    reached = {layer.module for layer in geometry.layers}
    for blocks in {layer.block[0] for layer in geometry.layers if layer.block is not None}:
        total = sum(1 for _ in model.get_submodule(blocks).children())
        hit = {path[len(blocks) + 1 :].split(".")[0] for path in reached if path.startswith(f"{blocks}.")}
        missing_blocks = [i for i in range(total) if str(i) not in hit and not _without_attention(model, blocks, i)]
        if missing_blocks:
            raise ModelError(
                f"{name}: {len(hit)} of {total} layers of {blocks} reached the attention interface; layers "
                f"{missing_blocks} did not and would silently run without the prefix"
            )


def _without_attention(model: PreTrainedModel, blocks: str, index: int) -> bool:
    """Whether block `index` says of itself, by its config's layer types or its modules, that it has no attention."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    if index < len(kinds) and kinds[index] in _NOT_ATTENTION:
        return True
    block = model.get_submodule(f"{blocks}.{index}")
    return not any("Attention" in type(module).__name__ for module in block.modules())
