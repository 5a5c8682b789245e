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

BANK = "prefixtune"
"""The name of the child of a model that holds its prefixes."""

_OF_A_BODY = (nn.ModuleList, nn.Embedding)
"""What stands in a body, and in no head: some classes (T5 and CLIP with a head) hold the parts of a body beside it."""


def head_names(model: PreTrainedModel) -> list[str]:
    """The model's children that read out the base: what stands outside it in a model without a language-model head."""
    if model.get_output_embeddings() is not None:
        return []
    children = [
        (name, child)
        for name, child in model.named_children()
        if child is not model.base_model and name != BANK and next(child.parameters(), None) is not None
    ]
    if model.base_model is not model:
        return [name for name, _ in children]
    if "For" not in type(model).__name__ or model.can_generate():
        return []  # a body
    return [name for name, child in children if not any(isinstance(part, _OF_A_BODY) for part in child.modules())]


def copy_heads(model: PreTrainedModel, names: list[str]) -> nn.ModuleDict:
    """Trainable copies of the heads, without the hooks that the originals may carry.

    They are in full precision, as a prefix is: in 16 bits an optimiser's small steps round to nothing.
    """
    heads = nn.ModuleDict()
    for name in names:
        original = model.get_submodule(name)
        hooks, original._forward_hooks = original._forward_hooks, OrderedDict()
        try:
            copied = copy.deepcopy(original)
            heads[name] = copied.to(torch.promote_types(torch.float32, _dtype(copied) or torch.float32))
        finally:
            original._forward_hooks = hooks
    return heads.requires_grad_(True)


def widen(head: nn.Module) -> None:
    """Bring a head to full precision where it stands; between modules of 16 bits it takes and gives what it did."""
    narrow = _dtype(head)
    if narrow not in (torch.float16, torch.bfloat16):
        return
    head.to(torch.float32)

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
        return tuple(_some(x, None, torch.float32) for x in args), {
            name: _some(x, None, torch.float32) for name, x in kwargs.items()
        }

    head.register_forward_pre_hook(take, with_kwargs=True)
    head.register_forward_hook(lambda module, args, output: output.to(narrow))


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
            return output if head is None else _run(head, args, kwargs, None).to(output.dtype)
        outputs = [
            output[rows] if head is None else _run(head, args, kwargs, rows).to(output.dtype) for head, rows in parts
        ]
        if len({out.shape[1:] for out in outputs}) > 1:
            shapes = ", ".join(str(tuple(out.shape[1:])) for out in outputs)
            raise ConfigError(
                f"the rows of one batch have heads of different sizes ({shapes}); run them in batches apart"
            )
        order = torch.tensor([row for _, rows in parts for row in rows], device=output.device)
        return torch.cat(outputs)[torch.argsort(order)]


def _run(head: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: list[int] | None) -> Tensor:
    """The head over some rows of each tensor (None: all), in the head's own precision."""
    dtype = _dtype(head)
    given = {name: _some(value, rows, dtype) for name, value in kwargs.items()}
    return head(*(_some(value, rows, dtype) for value in args), **given)


def _some(value: Any, rows: list[int] | None, dtype: torch.dtype | None) -> Any:
    """Some rows of an argument of a head (None: all), a floating one in `dtype` (None: in its own)."""
    if not isinstance(value, Tensor):
        return value
    some = value if rows is None else value[rows]
    return some.to(dtype) if dtype is not None and some.is_floating_point() else some


def _dtype(head: nn.Module) -> torch.dtype | None:
    """None where the weights are quantised."""
    return next((parameter.dtype for parameter in head.parameters() if parameter.is_floating_point()), None)
