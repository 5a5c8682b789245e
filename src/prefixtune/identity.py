"""Which base model a prefix belongs to: its name, its shape, how it computes, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefixtune.geometry import Geometry
from prefixtune.heads import BANK, head_names

SAMPLES = 64
"""How many weights of each tensor the fingerprint reads, evenly spread."""

# Rounding a wider number to one of these gives what a model loaded in that type holds; never the other way round.
_WIDTHS = {"float64": 3, "float32": 2, "bfloat16": 1, "float16": 1}

# What a config says of arithmetic that no weight shows, heads left out. Versions of transformers name more or less of
# it, so only what two configs both say is compared.
_COMPUTES = re.compile(
    r"(eps|epsilon|_act|activation|_fn|_function)$|rope_|softcap|scal|multiplier|relative_|alibi|clip_qkv|bidirectional"
    r"|parallel_residual|parallel_attn|norm_before|norm_after|pre_?norm|post_?norm|norm_first|no_rope|interleav"
    r"|experts_per_tok|moe_top_?k|top_k_experts|topk_|norm_topk|n_group$|mlp_layer_types|mlp_only_layers|sparse_step"
)
_HEADS = re.compile(r"^(pooler|summary|classifier)_")


@dataclass(frozen=True)
class Identity:
    """What is known of a base model.

    Args:
        fingerprints: one hash for each float type that its weights round to.
        settings: what its config says of its arithmetic, by dotted name.
    """

    name: str
    model_type: str
    shape: str
    fingerprints: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in `prefix_config.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Identity:
        """The inverse of `to_json`; what a later version adds is passed over. Raises ValueError for anything else."""
        kinds = {"name": str, "model_type": str, "shape": str, "fingerprints": dict}
        if not isinstance(given, dict) or not all(isinstance(given.get(key), kind) for key, kind in kinds.items()):
            raise ValueError(f"expected a mapping with {', '.join(kinds)}, got {str(given)[:60]}")
        settings = given.get("settings", {})
        if not isinstance(settings, dict):
            raise ValueError(f"expected settings to be a mapping, got {str(settings)[:60]}")
        if not all(isinstance(digest, str) for digest in given["fingerprints"].values()):
            raise ValueError(f"expected fingerprints that are texts, got {str(given['fingerprints'])[:60]}")
        return cls(**{key: given[key] for key in kinds}, settings=settings)

    def named(self) -> str:
        """For messages: `gpt2 'my-model' (shape 1a2b3c4d, weights 5e6f7a8b)`."""
        weights = next(iter(self.fingerprints.values()), "unknown")[:8]
        return f"{self.model_type} {self.name!r} (shape {self.shape[:8]}, weights {weights})"

    def is_same_base(self, other: Identity) -> bool:
        """Whether both are one model, whatever float types they were loaded in; quantised weights count as a match."""
        if (self.model_type, self.shape) != (other.model_type, other.shape) or self.differing(other):
            return False
        shared = self.fingerprints.keys() & other.fingerprints.keys()
        return not shared or all(self.fingerprints[dtype] == other.fingerprints[dtype] for dtype in shared)

    def differing(self, other: Identity) -> list[str]:
        """The settings that both have, with other values."""
        return [key for key in self.settings.keys() & other.settings if self.settings[key] != other.settings[key]]


def identity_of(model: PreTrainedModel, geometry: Geometry) -> Identity:
    """The identity of a base model, whether or not prefixes and heads are attached to it."""
    layers = [asdict(layer) for layer in geometry.layers]
    text = model.config.get_text_config()
    shape = {"model_type": model.config.model_type, "vocabulary": getattr(text, "vocab_size", None), "layers": layers}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    settings = dict(_settings(model.config.to_dict()))
    return Identity(model.config._name_or_path, model.config.model_type, digest, _fingerprints(model), settings)


def _settings(config: Mapping[str, Any], above: str = "", within: bool = False) -> Iterator[tuple[str, Any]]:
    """The leaves of a config that are named for arithmetic, or stand under such a name, by their dotted names."""
    for name, value in config.items():
        known = within or bool(_COMPUTES.search(str(name)) and not _HEADS.search(str(name)))
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{name}.", known)
        elif known and all(isinstance(one, bool | int | float | str) for one in _ones(value)):
            yield f"{above}{name}", list(value) if isinstance(value, tuple) else value


def _ones(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _fingerprints(model: PreTrainedModel) -> dict[str, str]:
    weights = _base_weights(model)
    widths = {str(weight.dtype).removeprefix("torch.") for weight in weights}
    if not weights or not widths <= _WIDTHS.keys():
        return {}  # quantised: its numbers are not the base's
    narrowest = min(_WIDTHS[width] for width in widths)
    fitting = [dtype for dtype, width in _WIDTHS.items() if width < narrowest or dtype in widths]
    samples = [_sample(weight) for weight in weights]
    return {dtype: _digest(samples, getattr(torch, dtype)) for dtype in fitting}


def _base_weights(model: PreTrainedModel) -> list[Tensor]:
    """The parameters of the base alone, in a fixed order: neither a task head nor a prefix."""
    heads = head_names(model) if model.base_model is model else []
    beside = tuple(f"{name}." for name in (BANK, *heads))
    named = sorted(model.base_model.named_parameters())
    return [parameter for name, parameter in named if not name.startswith(beside)]


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].cpu()


def _digest(samples: list[Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.to(dtype).to(torch.float64).numpy().tobytes())
    return digest.hexdigest()
