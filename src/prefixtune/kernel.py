"""Joint attention over prefix and tokens without joining them: two softmaxes, merged exactly by their log-sum-exp.

The tokens' part is torch's flash attention as the model itself would call it: causal without a mask. The prefix's part
is that of all queries of the batch to the one prefix. Nothing of size queries x keys is kept for the backward, nor a
gate that can be made again (prefixtune.gating).

Axes: B batch, H query heads, G key/value heads, P prefix length, T queries, S keys, D head size, N = B * T queries.
Source: FlashAttention (Dao et al. 2022, arXiv 2205.14135, section 3.1) merges blocks of keys like this. Its backward
needs each query's output and log-sum-exp over *all* keys and then works block by block; so each part's backward is
torch's own, given the merged output and log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prefixtune import flash, products
from prefixtune.gating import repeat_of
from prefixtune.products import Gradients, as_rows, one_row


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    gate: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """Attention of every query to the prefix and to the tokens, in one softmax: `[B, T, H, Dv]`, contiguous.

    query `[B, H, T, Dk]`, key `[B, G, S, Dk]`, value `[B, G, S, Dv]`, prefix_key `[G, P, Dk]`, prefix_value
    `[G, P, Dv]`, all of one dtype; gate `[B|1, T|1, P]` or None (= 1), on scores and values; mask `[B|1, H|1, T|1, S]`,
    bool (True = visible) or additive, without a gradient; `causal` aligns the first query with the first key.
    A query whose every token is masked attends to the prefix alone. Differentiable once, in all but the mask.
    """
    Dv = value.shape[3]
    size = flash.head_size(max(query.shape[3], Dv), query.device)
    query, key, prefix_key = (_sized(x, size) for x in (query, key, prefix_key))
    value, prefix_value = (_sized(x, size) for x in (value, prefix_value))
    given = (query, key, value, prefix_key, prefix_value, gate, mask, causal, scale)
    out = _Merged.apply(*given) if torch.is_grad_enabled() else _merged(*given)[0].transpose(1, 2)
    return out[..., :Dv].contiguous()


@dataclass(frozen=True)
class Part:
    """The rows of a batch that have one prefix, in one layer."""

    rows: Tensor  # [b]
    key: Tensor  # [G, P, Dk]
    value: Tensor  # [G, P, Dv]
    gate: Tensor | None  # [b|1, T|1, P]; None = 1


def mixed_attention(
    query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part], mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """`merged_attention` where rows have prefixes of their own: `[B, T, H, Dv]`, contiguous. Without a gradient.

    The text's part is one call for all rows. A row in no part has no prefix.
    """
    Dv = value.shape[3]
    size = flash.head_size(max(query.shape[3], Dv), query.device)
    query, key, value = (_sized(x, size) for x in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        out, lse = flash.forward(query, key, value, additive(mask, query.dtype), causal, scale)
        together = [part for part in parts if _gathers(part)]
        for part in parts if len(together) < 2 else [part for part in parts if not _gathers(part)]:
            some, gate = query.index_select(0, part.rows), part.gate
            keys, values = (_sized(x, size).to(query.dtype) for x in (part.key, part.value))
            attend = products.forward if _in_blocks(some, gate) else _by_sequence
            _merge_rows(out, lse, part.rows, *attend(some, keys, values, gate, scale))
        if len(together) > 1:
            rows, keys, values, seen = _gathered(together, query.dtype, size)
            _merge_rows(out, lse, rows, *flash.forward(query.index_select(0, rows), keys, values, seen, False, scale))
    return out.transpose(1, 2)[..., :Dv].contiguous()


GATHERED = 2**15
"""Up to how many numbers a row's keys are copied for it, rather than attended to in a call of their own."""


def _gathers(part: Part) -> bool:
    """Whether rows of several prefixes take fewer calls: short prefixes, few rows each, nothing that gates them."""
    return part.gate is None and part.key.numel() * len(part.rows) <= GATHERED


def _gathered(parts: Sequence[Part], dtype: torch.dtype, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Rows `[b]` of several prefixes, each row's keys and values `[b, G, P, D]`, and what it sees `[b, 1, 1, P]`."""
    longest = max(part.key.shape[1] for part in parts)
    rows = torch.cat([part.rows for part in parts])
    which = torch.repeat_interleave(torch.tensor([len(part.rows) for part in parts], device=rows.device))

    def stacked(each: Sequence[Tensor]) -> Tensor:
        ends = [x if x.shape[1] == longest else F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in each]
        return _sized(torch.stack(ends).to(dtype), size).index_select(0, which)

    keys, values = stacked([part.key for part in parts]), stacked([part.value for part in parts])
    lengths = torch.tensor([part.key.shape[1] for part in parts], device=rows.device)
    if int(lengths.min()) == longest:
        return rows, keys, values, None
    seen = torch.arange(longest, device=rows.device) < lengths[which, None]  # [b, P]
    return rows, keys, values, additive(seen[:, None, None], dtype)


def _merge_rows(out: Tensor, lse: Tensor, rows: Tensor, prefix_out: Tensor, prefix_lse: Tensor) -> None:
    """Merge the prefix's part of some rows into the text's, in place: out `[B, H, T, D]`, lse `[B, H, T]`."""
    share = _share(lse.index_select(0, rows), prefix_lse).to(out.dtype)
    out.index_copy_(0, rows, out.index_select(0, rows).lerp_(prefix_out, share))


def _sized(x: Tensor, size: int) -> Tensor:
    """In autocast's type, as torch's own attention has it, and with heads of this size.

    Flash attention has one head size for keys and values; zeros add nothing to a score or to an output.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x if x.shape[-1] == size else F.pad(x, (0, size - x.shape[-1]))


def prefix_attention(query: Tensor, prefix_key: Tensor, prefix_value: Tensor, scale: float) -> Tensor:
    """Attention of every query of the batch `[B, H, T, Dk]` to the prefix `[G, P, D]` alone: `[B, H, T, Dv]`."""
    query, B = _sized(query, query.shape[3]), len(query)
    grouped = query.shape[1] != len(prefix_key)

    def attend(some: Tensor) -> Tensor:
        keys, values = prefix_key[None].to(query.dtype), prefix_value[None].to(query.dtype)
        return F.scaled_dot_product_attention(some, keys, values, scale=scale, enable_gqa=grouped)

    row = one_row(query)
    if not _rounds_sums(query) or row.shape[2] <= QUERIES:
        return as_rows(attend(row), B)
    prefix_key, prefix_value = prefix_key.float(), prefix_value.float()  # so are the sums of their gradients
    outs = [attend(some).transpose(1, 2) for some in row.split(QUERIES, dim=2)]
    return as_rows(torch.cat(outs, dim=1).transpose(1, 2), B)


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask as finite numbers to add. Finite, because torch gives a row of -inf the log-sum-exp 0, not -inf.

    Half the lowest, because CUDA's attention has its scores in powers of two, 1.44 times as many.
    """
    if mask is None:
        return None
    lowest = torch.finfo(dtype).min / 2
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)
    return mask.clamp(min=lowest).to(dtype).contiguous()


def _share(lse: Tensor, prefix_lse: Tensor) -> Tensor:
    """How much of a query's attention goes to the prefix, `[B, H, T, 1]`: its sum of exponentials over both sums."""
    return torch.sigmoid(prefix_lse - lse)[..., None]


def _merged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    gate: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`merged_attention` of tensors of one head size: `[B, H, T, Dv]`, and both parts' log-sum-exps `[B, H, T]`."""
    with torch.autocast(query.device.type, enabled=False):
        out, lse = flash.forward(query, key, value, additive(mask, query.dtype), causal, scale)
        part = products.forward if _in_blocks(query, gate) else _by_sequence
        prefix_out, prefix_lse = part(query, prefix_key, prefix_value, gate, scale)
        out.lerp_(prefix_out, _share(lse, prefix_lse).to(out.dtype))
    return out, lse, prefix_lse


class _Merged(torch.autograd.Function):
    """`merged_attention` of tensors of one head size. It keeps the mask as it came, which all layers share."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """`given` is what `_merged` takes."""
        out, lse, prefix_lse = _merged(*given)
        query, key, value, prefix_key, prefix_value, gate, mask, causal, scale = given
        ctx.repeat = repeat_of(gate)
        kept_gate = gate if ctx.repeat is None else None
        both = torch.logaddexp(lse, prefix_lse)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, kept_gate, mask, out, both)
        ctx.causal, ctx.scale = causal, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, gate, mask, out, lse = ctx.saved_tensors
        grad = grad.transpose(1, 2)  # [B, H, T, Dv]
        d_query = d_key = d_value = d_prefix_key = d_prefix_value = d_gate = None
        with torch.autocast(grad.device.type, enabled=False):
            if any(ctx.needs_input_grad[:3]):
                d_query, d_key, d_value = flash.backward(
                    grad, query, key, value, out, lse, additive(mask, query.dtype), ctx.causal, ctx.scale
                )
            if ctx.needs_input_grad[0] or any(ctx.needs_input_grad[3:6]):
                gate = gate if ctx.repeat is None else ctx.repeat()
                part = products.backward if _in_blocks(query, gate) else _by_sequence_backward
                through_prefix, d_prefix_key, d_prefix_value, d_gate = part(
                    grad, query, prefix_key, prefix_value, gate, out, lse, ctx.scale
                )
                d_query = None if d_query is None else d_query.add_(through_prefix)
        return d_query, d_key, d_value, d_prefix_key, d_prefix_value, d_gate, None, None, None


def _in_blocks(query: Tensor, gate: Tensor | None) -> bool:
    """Whether the gate is put on scores, which have T numbers a head and row, or on keys and values, which have 2 D."""
    if gate is None:
        return False
    return gate.shape[1] > 1 or (len(gate) > 1 and query.shape[2] <= 2 * query.shape[3])


# Without a gate, or with one that is the same at every position of a sequence: folded into keys and values.


def _by_sequence(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention to the prefix alone under a gate `[B|1, 1, P]` or None: out `[B, H, T, Dv]`, lse `[B, H, T]`."""
    B, _, T, _ = query.shape
    keys, values = _folded(prefix_key, gate, query), _folded(prefix_value, gate, query)  # [B|1, G, P, D]
    if len(keys) == B:
        return flash.forward(query, keys, values, None, False, scale)
    out, lse = flash.forward(one_row(query), keys, values, None, False, scale)
    return as_rows(out, B), as_rows(lse[..., None], B)[..., 0]


def _by_sequence_backward(
    grad: Tensor,
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    gate: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    B, _, T, _ = query.shape
    keys, values = _folded(prefix_key, gate, query), _folded(prefix_value, gate, query)
    part = _summed_backward if _rounds_sums(query) else _whole_backward
    if len(keys) == B:
        d_query, d_keys, d_values = part(grad, query, keys, values, out, lse, scale)
    else:
        one_grad, one_query, one_out = one_row(grad), one_row(query), one_row(out)
        one_lse = one_row(lse[..., None])[..., 0]
        d_query, d_keys, d_values = part(one_grad, one_query, keys, values, one_out, one_lse, scale)
        d_query = as_rows(d_query, B)
    if gate is None:
        return d_query, d_keys.sum(0).to(keys.dtype), d_values.sum(0).to(keys.dtype), None
    d_gate = (d_keys * prefix_key).sum((1, 3)) + (d_values * prefix_value).sum((1, 3))  # [B|1, P]
    factor = gate.mT[:, None].to(keys.dtype)
    d_gate = d_gate[:, None].sum_to_size(gate.shape).to(gate.dtype)
    d_prefix_key, d_prefix_value = ((x * factor).sum(0).to(keys.dtype) for x in (d_keys, d_values))
    return d_query, d_prefix_key, d_prefix_value, d_gate


QUERIES = 1024
"""How many queries' gradients of the prefix torch may add up in 16 bits; fewer in a call take it longer for each."""

SHORT = 128
"""Prefixes shorter than this have their backward in float32, which takes less time for them than 16 bits do."""


def _rounds_sums(query: Tensor) -> bool:
    """Whether torch adds up gradients of keys and values in 16 bits: on a CPU, one rounding for each block of queries.

    All queries of a batch are one row to the prefix, and the error would grow with their number.
    """
    return flash.on_cpu(query) and query.dtype in flash.LOW_PRECISION


def _whole_backward(
    grad: Tensor, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor, scale: float
) -> flash.Parts:
    return flash.backward(grad, query, keys, values, out, lse, None, False, scale)


def _summed_backward(
    grad: Tensor, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor, scale: float
) -> flash.Parts:
    """`_whole_backward` by runs of queries; the gradients of keys and values `[B|1, G, P, D]` are summed in float32."""
    rows, heads, count, size = query.shape
    dtype = torch.float32 if keys.shape[2] < SHORT else query.dtype
    run = QUERIES if dtype == query.dtype else max(64, QUERIES // rows)  # no float32 copy of the whole batch
    d_query = query.new_empty(rows, count, heads, size).transpose(1, 2)
    d_keys, d_values = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
    keys, values = keys.to(dtype), values.to(dtype)
    for start in range(0, count, run):
        at = slice(start, start + run)
        some_grad, some_query, some_out = (x[:, :, at].to(dtype) for x in (grad, query, out))
        parts = _whole_backward(some_grad, some_query, keys, values, some_out, lse[:, :, at], scale)
        d_query[:, :, at] = parts[0]
        d_keys += parts[1]
        d_values += parts[2]
    return d_query, d_keys, d_values


def _folded(prefix: Tensor, gate: Tensor | None, query: Tensor) -> Tensor:
    """`[G, P, D]` under a gate `[B|1, 1, P]` as `[B|1, G, P, D]`.

    Off the CPU always B of them, though they are the same: a GPU's backward of keys has work for B * G * P / 64
    blocks, and all queries as one row would leave most of it idle.
    """
    folded = prefix[None] if gate is None else prefix * gate.mT[:, None].to(prefix.dtype)
    return folded if flash.on_cpu(query) else folded.expand(len(query), -1, -1, -1)
