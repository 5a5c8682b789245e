"""Where tokens stand: positions of real text, padding masks, position tables and relative biases of a stack."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prefixtune.errors import ModelError
from prefixtune.geometry import HIDDEN


def bias_source(attention: nn.Module, stack: nn.Module) -> Any:
    """The module that computes the relative position bias (T5 and kin): the layer itself, or the stack's first."""
    for module in (attention, *stack.modules()):
        if "relative_attention_bias" in module._modules:
            return module
    raise ModelError(f"{type(stack).__name__} adds a position bias of an unknown kind; use position_offset=0")


def text_mask(given: Any, past: int, window: int | None) -> Tensor | None:
    """A 2D padding mask as `[B, S]`, also from the 4D mask that was prepared for queries behind `past` keys.

    There a key is text if any query sees it, unless a sliding window cuts it. Then a query tells of itself, and the
    first one of the keys before it that are in its window; keys that left the window count as text.
    """
    if isinstance(given, dict):  # one mask for each kind of layer
        window = None if "full_attention" in given else window
        given = given.get("full_attention", given.get("sliding_attention"))
    if not isinstance(given, Tensor) or given.ndim not in (2, 4):
        return None
    if given.ndim == 2:
        return given
    seen = given[:, 0] if given.dtype == torch.bool else given[:, 0] > HIDDEN  # [B, T, S]
    if window is None or seen.shape[2] <= window:
        return _seen_by_any(seen).long()
    left = torch.arange(past, 0, -1, device=given.device) >= window
    return torch.cat([seen[:, 0, :past] | left, seen[:, :, past:].diagonal(dim1=1, dim2=2)], dim=1).long()


def _seen_by_any(seen: Tensor) -> Tensor:
    """Which keys `[B, S]` are text by what queries see, `[B, T, S]`.

    The last query tells of all it sees. Another one may itself be padding, and such a row is left open to all keys or
    to its own, so that its softmax has something: who sees everything, or one key alone, tells nothing.
    """
    if seen.shape[1] == 1:
        return seen[:, 0]
    counts = seen.sum(-1, keepdim=True)  # [B, T, 1]
    return seen[:, -1] | (seen & (counts > 1) & (counts < seen.shape[2])).any(1)


def real_positions(tokens: Tensor, mask: Tensor | None, past: int) -> Tensor:
    """Positions `[B, T]` of the tokens, counted over real text only, the first at 0."""
    B, T = tokens.shape[0], tokens.shape[1]
    if mask is None:
        return torch.arange(past, past + T, device=tokens.device).expand(B, T)
    return (mask.long().cumsum(-1) - 1).clamp_(min=0)[:, -T:].expand(B, T)


def learned_positions(stack: nn.Module) -> int | None:
    """How many positions a stack with a learned position table has; None for rotary and relative positions."""
    tables = [
        module.num_embeddings - vars(module).get("offset", 0)  # OPT and BART keep two rows for themselves
        for name, module in stack.named_modules()
        if isinstance(module, nn.Embedding)
        and any(part in name for part in ("wpe", "position_embed", "embed_position"))
    ]
    return min(tables, default=None)


def movable_tables(stack: nn.Module) -> list[nn.Module]:
    """The position tables of a stack without `position_ids` (BART and kin): called by length, they take positions."""
    return [
        table
        for table in stack.children()
        if {"past_key_values_length", "position_ids"} <= inspect.signature(table.forward).parameters.keys()
    ]


def has_relative_bias(stack: nn.Module) -> bool:
    """Whether a stack adds a T5-like bias to its scores instead of giving its tokens positions."""
    return any("relative_attention_bias" in module._modules for module in stack.modules())


def first_position(stack: nn.Module) -> int:
    """Where a bare stack puts its first token: 0, or after the padding index (RoBERTa and kin)."""
    for name, module in stack.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
