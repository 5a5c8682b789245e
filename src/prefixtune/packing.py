"""Packed rows: several examples one after another in one row, without padding, each seeing itself alone.

Everything that a transformer does token by token runs on the N real tokens of the row. Attention alone takes the
examples apart: for its time they are B rows of the longest one's length T, and what stands behind a shorter example is
seen by none of its tokens and read by nothing.

A packed row is known by positions that start again, and no padding mask. That is transformers' own convention for
causal models, so a decoder under a prefix needs no more. To an encoder such positions say nothing, and a model without
a prefix is left to itself: there a row is packed only within `declare`, as our own layouts have it.
Axes: B examples, N tokens of the row, T the longest example, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError, ModelError

IGNORED = -100
"""The label that takes no part in the loss (the convention of torch and transformers)."""

Pattern = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query sees a key, of the indices of batch, head, query and key: transformers' mask functions."""


@dataclass(frozen=True)
class Packing:
    """Which tokens of a packed row are which example."""

    lengths: tuple[int, ...]
    index: Tensor  # [B, T]: the token at each place of the rows taken apart; behind an example, its last token again
    places: Tensor  # [N]: where each token stands in the rows taken apart, counted through
    real: Tensor | None  # [B, T]: True where there is a token; None when that is everywhere

    @property
    def longest(self) -> int:
        """T."""
        return self.index.shape[1]

    def rows(self, row: Tensor) -> Tensor:
        """`[N, ...]` as `[B, T, ...]`. What stands behind an example is finite and must not be read."""
        if self.real is None:
            return row.unflatten(0, self.index.shape)
        return _Rows.apply(row, self).unflatten(0, self.index.shape)

    def row(self, rows: Tensor) -> Tensor:
        """`[B, T, ...]` as `[N, ...]`; the inverse of `rows`."""
        flat = rows.flatten(0, 1)
        return flat if self.real is None else _Row.apply(flat, self)

    def spread(self, values: Tensor) -> Tensor:
        """One value an example, `[B]`, as one a token, `[N]`."""
        return values[self.places // self.longest]

    def seen(self, pattern: Pattern) -> Tensor:
        """Which keys of its example a query sees, `[B, 1, T, T]`, of what `pattern` says of the row's tokens."""
        zero = self.places.new_zeros(1, 1, 1, 1)
        found = pattern(zero, zero, self.index[:, None, :, None], self.index[:, None, None, :])
        found = found.expand(-1, -1, self.longest, self.longest)
        return found if self.real is None else found & self.real[:, None, None, :]


def find(position_ids: Tensor) -> Packing | None:
    """How rows of these positions `[B, N]` are packed, read one after another; None when each is one example.

    An example begins where a position is not the one after the last (transformers' `find_packed_sequence_indices`).
    """
    if int(starts_of(position_ids).sum()) == len(position_ids):
        return None
    begins = starts_of(position_ids).flatten().nonzero()[:, 0]
    starts = torch.cat([begins, begins.new_tensor([position_ids.numel()])])
    lengths = starts.diff()
    T = int(lengths.max())
    within = torch.arange(T, device=position_ids.device)
    index = starts[:-1, None] + torch.minimum(within, lengths[:, None] - 1)
    real = within < lengths[:, None]
    places = real.flatten().nonzero()[:, 0]
    return Packing(tuple(lengths.tolist()), index, places, None if real.numel() == len(places) else real)


def recognise(named: Mapping[str, Any], tokens: Tensor, first: int) -> Packing | None:
    """How the input `[B, N, ...]` of a call is packed, by its other arguments; None for rows of one example each.

    `first` is where the model has the first position. Raises ConfigError for positions that leap without starting
    again, for several packed rows, and for positions that the model keeps for padding.
    """
    given = named.get("position_ids")
    if not isinstance(given, Tensor) or given.ndim != 2 or given.shape != tokens.shape[:2]:
        return None
    if named.get("attention_mask") is not None or named.get("past_key_values") is not None:
        return None
    found = find(given)
    if found is None:
        return None
    leaps = given[starts_of(given) & (given != given[:, :1])]
    if len(leaps):
        raise ConfigError(
            f"positions leap to {int(leaps[0])} without starting again at the first one, and without an attention_mask "
            "transformers reads that as a new text in some calls only; give an attention_mask of ones for one text"
        )
    if len(given) > 1:
        raise ConfigError(
            f"{len(given)} rows in which positions start again; pack all examples into one row, or give an "
            "attention_mask where each row is one text"
        )
    if first and int(given.min()) < first:
        raise ConfigError(
            f"the positions of a packed row begin at {int(given.min())}, but this model's first position is {first}; "
            "start each example there"
        )
    return found


def starts_of(position_ids: Tensor) -> Tensor:
    """True where an example begins, in the shape of the positions `[B, N]`."""
    return position_ids.diff(prepend=position_ids[:, :1]) != 1


class _Rows(torch.autograd.Function):
    """`Packing.rows`. Nothing reads what stands behind an example, so its gradient is zero and may be left out."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return row.index_select(0, packing.index.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.packing.places), None


class _Row(torch.autograd.Function):
    """`Packing.row`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return rows.index_select(0, packing.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        packing: Packing = ctx.packing
        assert packing.real is not None
        rows = grad.index_select(0, packing.index.flatten())
        return rows.mul_(packing.real.view(-1, *[1] * (rows.ndim - 1))), None


def taken_apart(call: AttentionCall, packing: Packing) -> AttentionCall:
    """An attention call over a packed row as one over its examples, B rows of T tokens.

    Raises ModelError when the call is over something else, or carries a mask or a bias of the whole row.
    """
    N, name = len(packing.places), type(call.module).__name__
    sizes = [tuple(x.shape) for x in (call.query, call.key, call.value)]
    if any(size[0] != 1 or size[2] != N for size in sizes):
        raise ModelError(
            f"{name} was given {len(packing.lengths)} examples packed into a row of {N} tokens, but attends over "
            f"queries, keys and values of the shapes {sizes}; pad the examples instead"
        )
    mask, wanted = call.mask, (len(packing.lengths), packing.longest)
    if call.options.get("position_bias") is not None or (
        mask is not None and (mask.shape[0], mask.shape[-1]) != wanted
    ):
        raise ModelError(
            f"{name} brings a position bias or a mask of its own over a packed row of {N} tokens; pad the examples "
            "instead"
        )
    if mask is None and not call.causal and packing.real is not None:
        mask = packing.real[:, None, None, :]  # [B, 1, 1, T]
    query, key, value = (packing.rows(x[0].transpose(0, 1)).transpose(1, 2) for x in (call.query, call.key, call.value))
    hidden = call.hidden if call.hidden is None else packing.rows(call.hidden[0])
    origin = None if call.origin is None else call.origin.then(lambda hidden: packing.rows(hidden[0]))
    turned = None if call.rotation is None else call.rotation.map(lambda angle: packing.rows(angle[0]))
    return replace(call, query=query, key=key, value=value, mask=mask, hidden=hidden, origin=origin, rotation=turned)


declared: ContextVar[bool] = ContextVar("declared", default=False)
"""Whether who calls the model says that positions that start again are packed examples."""


@contextmanager
def declare() -> Iterator[None]:
    """Within it, positions that start again are packed examples to every attached model, whatever its prefix."""
    token = declared.set(True)
    try:
        yield
    finally:
        declared.reset(token)


running: ContextVar[Packing | None] = ContextVar("running", default=None)
"""The packed row that a model is now running on, for the mask functions, which transformers calls by name."""


def mask_function(kind: str) -> Callable[..., Any]:
    """transformers' mask function of `kind`, 'sdpa' or 'eager'; over a packed row, masks of its examples."""
    own = ALL_MASK_ATTENTION_FUNCTIONS[kind]

    def mask(*args: Any, **options: Any) -> Tensor | None:
        packing = running.get()
        if packing is None:
            return own(*args, **options)
        return _mask_of_examples(kind, packing, **options)

    return mask


def _mask_of_examples(
    kind: str,
    packing: Packing,
    *,
    q_length: int,
    kv_length: int,
    mask_function: Pattern,
    use_vmap: bool = False,
    local_size: int | None = None,
    config: Any = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Tensor | None:
    """The mask of the examples, `[B, 1, T|1, T]`, or None where it says what its absence says.

    The mask of the whole row, `[1, 1, N, N]`, is never made: `mask_function` is asked of pairs within an example only.
    """
    N = len(packing.places)
    # Chunks begin at fixed positions, which older versions of transformers count along the whole row.
    chunked = local_size is not None and local_size == getattr(config, "attention_chunk_size", None)
    if use_vmap or chunked or (q_length, kv_length) != (N, N):
        raise ModelError(
            f"a mask over {q_length} queries and {kv_length} keys that is no plain pattern of distances, over a packed "
            f"row of {N} tokens; pad the examples instead"
        )
    seen = packing.seen(mask_function)
    keys = torch.ones_like(packing.index, dtype=torch.bool) if packing.real is None else packing.real
    keys = keys[:, None, None, :]
    if torch.equal(seen, keys.expand_as(seen)):
        mask = None if packing.real is None else keys
    elif kind == "sdpa" and torch.equal(seen, keys & torch.ones_like(seen[0, 0]).tril()):
        mask = None  # causal
    else:
        mask = seen
    if kind == "sdpa" or mask is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def pack(features: Sequence[Mapping[str, Sequence[int]]], *, first: int, shifted: bool) -> dict[str, Tensor]:
    """Examples of `input_ids`, `labels` and whatever else is one number a token, as one row `[1, N]` of each.

    Positions start again at `first` in each example. `shifted`: the logits at position t predict the label at t + 1,
    so an example's first label, which the example before would have to predict, is left out.
    """
    columns = {name: [list(feature[name]) for feature in features] for name in features[0] if name != "attention_mask"}
    columns["position_ids"] = [list(range(first, first + len(ids))) for ids in columns["input_ids"]]
    if shifted:
        columns["labels"] = [[IGNORED, *labels[1:]] for labels in columns["labels"]]
    return {name: torch.tensor([[x for part in parts for x in part]]) for name, parts in columns.items()}
