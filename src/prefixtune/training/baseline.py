"""What all baselines share: the base frozen, a new head trained, checkpoints of what is trained alone, budgets."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensor_bytes
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune import architectures, geometry
from prefixtune.checkpoint import TRAINING, write_whole
from prefixtune.errors import ConfigError, near_miss
from prefixtune.geometry import Geometry, Layer
from prefixtune.heads import head_names, widen
from prefixtune.training.adaptation import Adaptation

MODULE = "prefixtune_baseline"
"""The name of what a baseline adds, among the model's children."""


@dataclass(kw_only=True)
class Baseline(Adaptation):
    """Something that is not a prefix. A baseline is one file; its dataclass is its configuration."""

    @classmethod
    def name(cls) -> str:
        """The baseline's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    def kind(self) -> str:
        return self.name()

    def options(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """What is trained is in full precision, as a prefix is: in 16 bits, small steps round to nothing."""
        model.requires_grad_(False)
        self.insert(model, tokenizer)
        if any(_is_narrow(parameter) for parameter in trained(model).values()):
            model.float()  # the base's own: all of it, since blocks of two precisions do not fit together
        for name in head_names(model):
            head = model.get_submodule(name).requires_grad_(True)
            widen(head)
        if not trained(model):
            raise ConfigError(
                f"{self.kind()} trains a new head alone, and {type(model).__name__} has none; expected a task with a "
                "head (classification, tagging)"
            )
        keep_what_is_trained(model)

    @abstractmethod
    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Add modules to the frozen model, in full precision, or unfreeze some of its own. The head is seen to."""

    def save(self, model: PreTrainedModel, directory: Path, metadata: Mapping[str, Any]) -> int:
        """Nothing is written: a baseline is there to be measured."""
        return self.stored(model)

    def stored(self, model: PreTrainedModel) -> int:
        """How many numbers a user of this baseline would keep: those that are trained, unless it says otherwise."""
        return sum(parameter.numel() for parameter in trained(model).values())


def _is_narrow(parameter: Tensor) -> bool:
    return parameter.dtype in (torch.float16, torch.bfloat16)


def trained(model: PreTrainedModel) -> dict[str, Tensor]:
    """The trainable tensors by name, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def keep_what_is_trained(model: PreTrainedModel) -> None:
    """Make `save_pretrained`, which Trainer calls for its checkpoints, write the trainable tensors and nothing else."""
    own = vars(model)
    own["save_pretrained"] = partial(_save_trained, model)
    # Trainer warns of every weight that a checkpoint does not hold, unless these are the very ones it is told of.
    own["_keys_to_ignore_on_save"] = [key for key in model.state_dict() if key not in trained(model)]


def _save_trained(model: PreTrainedModel, save_directory: str | os.PathLike[str], **_: Any) -> None:
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in trained(model).items()}
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole({folder / TRAINING: tensor_bytes(tensors, metadata={"format": "pt"})})


def measured(model: PreTrainedModel) -> Geometry:
    """The attention layers of `model`, which is left as it was."""
    undo = architectures.adapt(model)
    try:
        return geometry.measure(model)
    finally:
        while undo:
            undo.pop()()


def blocks(layers: Sequence[Layer]) -> dict[str, Layer]:
    """The blocks around `layers`, in the order of the forward, each with its first attention layer."""
    found: dict[str, Layer] = {}
    for layer in layers:
        if layer.block is not None:
            found.setdefault("{}.{}".format(*layer.block), layer)
    if not found:
        raise ConfigError("the model's attention layers stand in no list of blocks, so there is none to put things in")
    return found


@dataclass(kw_only=True)
class Budgeted(Baseline):
    """A baseline whose size is chosen by a budget of numbers, the task head not counted."""

    percent: float = 0.1
    """Numbers added, in percent of those of the base model."""

    parameters: int | None = None
    """Numbers added, instead of percent."""

    length: int | None = None
    """Numbers added, instead of percent: as many as a prefix of this length has."""

    like: str = "adaptive"
    """The prefix that `length` speaks of: adaptive (APT) or p_tuning_v2 (also Prefix-Tuning without its MLP)."""

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ConfigError(f"percent={self.percent}: expected more than 0, and at most 100")
        if self.parameters is not None and self.parameters < 1:
            raise ConfigError(f"parameters={self.parameters}: expected at least 1")
        if self.length is not None and self.length < 1:
            raise ConfigError(f"length={self.length}: expected at least 1")
        if self.length is not None and self.parameters is not None:
            raise ConfigError("parameters and length both say how large the baseline is; expected one of them")
        if self.like not in _SIZES:
            raise ConfigError(f"unknown like {self.like!r}{near_miss(self.like, _SIZES)}")
        if self.like != "adaptive" and self.length is None:
            raise ConfigError(f"like={self.like} says what length speaks of, and there is no length; give length")

    def budget(self, model: PreTrainedModel) -> int:
        """The numbers to spend on `model`."""
        if self.parameters is not None:
            return self.parameters
        if self.length is not None:
            return sum(_SIZES[self.like](layer, self.length) for layer in measured(model).layers)
        return round(self.percent / 100 * sum(parameter.numel() for parameter in model.parameters()))


def _free_size(layer: Layer, length: int) -> int:
    """The numbers of P-Tuning v2 in one layer: keys and values."""
    return length * layer.groups * (layer.key_size + layer.value_size)


def _adaptive_size(layer: Layer, length: int) -> int:
    """The numbers of APT in one layer: keys, values, the token gate's weights and the layer gate."""
    return _free_size(layer, length) + length * layer.hidden + 1


_SIZES = {"adaptive": _adaptive_size, "p_tuning_v2": _free_size}


def share_units(costs: Sequence[int], budget: int, what: str) -> list[int]:
    """How many units each place gets, place i at `costs[i]` numbers a unit, as near to `budget` as whole units allow.

    Every place gets the same number; what is left goes to the last places (the top layers), one unit each.
    Raises ConfigError when not even one unit fits.
    """
    whole = budget // sum(costs)
    units, left = [whole] * len(costs), budget - whole * sum(costs)
    for place in reversed(range(len(costs))):
        if left >= costs[place] / 2:  # nearest, not largest below
            units[place] += 1
            left -= costs[place]
    if not any(units):
        raise ConfigError(
            f"{what} of a budget of {budget:,} numbers cannot be made: the smallest has {min(costs):,}; give a larger "
            "budget"
        )
    return units
