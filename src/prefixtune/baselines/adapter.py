"""Bottleneck adapters: a small residual MLP after every block (Lin et al. 2020, arXiv 2004.03829)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune.initialisation import parameter_dtype
from prefixtune.training.baseline import MODULE, Budgeted, blocks, measured, share_units


@dataclass(kw_only=True)
class Adapter(Budgeted):
    """`h + W_up relu(W_down norm(h) + b)` after a block; `W_up = 0` at the start, so a fresh adapter changes nothing.

    The placement is that of Lin et al. 2020, which Prefix-Tuning compares with: one adapter a block, after its MLP.
    The norm has no weights and W_up no bias, so that small budgets can be met; widths follow from the budget, and
    where it does not go round, the top blocks are one wider.
    """

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        budget, dtype = self.budget(model), parameter_dtype(model)
        found = blocks(measured(model).layers)
        hidden = [layer.hidden for layer in found.values()]
        widths = share_units([2 * size + 1 for size in hidden], budget, "an adapter")
        adapters = nn.ModuleList()
        for path, size, width in zip(found, hidden, widths, strict=True):
            if width:
                adapter = Bottleneck(size, width, dtype)
                model.get_submodule(path).register_forward_hook(adapter.follow)
                adapters.append(adapter)
        model.add_module(MODULE, adapters.to(model.device))


class Bottleneck(nn.Module):
    """One adapter of a width on states of a size."""

    def __init__(self, size: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.down = nn.Linear(size, width, dtype=dtype)
        self.up = nn.Linear(width, size, bias=False, dtype=dtype)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        """`[B, T, d]` to `[B, T, d]`."""
        normed = F.layer_norm(states.to(self.down.weight.dtype), states.shape[-1:])
        return states + self.up(F.relu(self.down(normed))).to(states.dtype)

    def follow(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook of a block: its states, which may come first in a tuple, adapted."""
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)
