"""Task heads: a prefix brings its own copy of the model's new head, and each row is read out by its prefix's head."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefixtune.errors import ConfigError


def head_names(model: PreTrainedModel, bank: str | None = None) -> list[str]:
    """The model's children that read out the base: what stands outside it in a model without a language-model head.

    `bank` is the name of the child that holds prefixes, which is neither; None: nothing was attached yet.
    """
    if model.get_output_embeddings() is not None or model.base_model is model:
        return []
    return [
        name
        for name, child in model.named_children()
        if child is not model.base_model and name != bank and next(child.parameters(), None) is not None
    ]


def copy_heads(model: PreTrainedModel, names: list[str]) -> nn.ModuleDict:
    """Trainable copies of the heads, without the hooks that the originals may carry."""
    heads = nn.ModuleDict()
    for name in names:
        original = model.get_submodule(name)
        hooks, original._forward_hooks = original._forward_hooks, OrderedDict()
        try:
            heads[name] = copy.deepcopy(original)
        finally:
            original._forward_hooks = hooks
    return heads.requires_grad_(True)


class HeadOwner(Protocol):
    """Who knows which head each row has: a copy, or None for the model's own."""

    def head_rows(self, name: str, batch: int) -> list[tuple[nn.Module | None, list[int]]]: ...


class HeadSwitch:
    """A forward hook that puts each prefix's head in the place of the model's own."""

    def __init__(self, owner: HeadOwner, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        parts = self.owner.head_rows(self.name, output.shape[0])
        if len(parts) == 1:
            head, _ = parts[0]
            return output if head is None else head(*args, **kwargs)
        outputs = [output[rows] if head is None else _some_rows(head, args, kwargs, rows) for head, rows in parts]
        if len({out.shape[1:] for out in outputs}) > 1:
            shapes = ", ".join(str(tuple(out.shape[1:])) for out in outputs)
            raise ConfigError(
                f"the rows of one batch have heads of different sizes ({shapes}); run them in batches apart"
            )
        order = torch.tensor([row for _, rows in parts for row in rows], device=output.device)
        return torch.cat(outputs)[torch.argsort(order)]


def _some_rows(head: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: list[int]) -> Tensor:
    def pick(value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) else value

    return head(*(pick(value) for value in args), **{name: pick(value) for name, value in kwargs.items()})
