"""Attention of every query to the prefix alone, under a gate of its own, by matrix products over blocks of queries.

A gate that differs from query to query cannot be folded into keys and values, and where queries are few it is cheaper
not to fold a sequence's. Scores and weights of a block stay in a core's cache and are computed again in the backward.

Axes: B batch, H query heads, G key/value heads, P prefix length, T queries, D head size, N = B * T queries, n a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prefixtune import flash

BLOCK = {"cpu": 2**17, "cuda": 2**24}
"""How many prefix scores are in memory at a time; on a CPU, 512 KB in float32 stay in a core's cache."""

_LOG2_E = math.log2(math.e)
"""Scores are in powers of two here: torch's exp2 is faster than its exp on a CPU."""

Gradients = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Of the queries, the prefix's keys, its values and the gate."""


def forward(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention to the prefix alone under a gate `[B|1, T|1, P]`: out `[B, H, T, Dv]`, lse `[B, H, T]`."""
    assert gate is not None
    B, H, T, _ = query.shape
    dtype = _exact(query.dtype)
    keys, values = _by_head(prefix_key, H, dtype).mul_(scale * _LOG2_E), _by_head(prefix_value, H, dtype)
    queries, gates = one_row(query)[0], _by_query(gate, B, T, dtype)  # [H, N, Dk], [N, P]
    out = query.new_empty(B * T, H, values.shape[2]).transpose(0, 1)  # [H, N, Dv]
    lse = query.new_empty(B * T, H, 1, dtype=dtype).transpose(0, 1)
    blocks = _blocks(H, B * T, keys.shape[1], query.device)
    scores, outs = _room(blocks, keys.mT), _room(blocks, values)
    for block in blocks:
        g = gates[block]
        score = _product(queries[:, block].to(dtype), keys.mT, scores).mul_(g)  # [H, n, P], in powers of two
        most = score.amax(-1, keepdim=True)
        weight = score.sub_(most).exp2_()
        total = weight.sum(-1, keepdim=True)
        out[:, block] = _product(weight.mul_(g), values, outs).div_(total)
        lse[:, block] = total.log2_().add_(most).div_(_LOG2_E)
    return as_rows(out[None], B), as_rows(lse[None], B)[..., 0]


def backward(
    grad: Tensor,
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    gate: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    """With a = softmax weight, g = gate, r = scale * q . k, u = dout . v and s = g * u - dout . out, the gradient of
    the score is a * s, and  d r = g * a * s,  d v = sum g * a * dout,  d gate = sum over heads of a * (r * s + u).
    """
    assert gate is not None
    B, H, T, _ = query.shape
    dtype = lse.dtype
    keys, values = _by_head(prefix_key, H, dtype).mul_(scale), _by_head(prefix_value, H, dtype)
    in_twos = keys * _LOG2_E
    queries, grads, outs = one_row(query)[0], one_row(grad)[0], one_row(out)[0]  # [H, N, D]
    negative_lses, gates = one_row(lse[..., None])[0] * -_LOG2_E, _by_query(gate, B, T, dtype)  # [H, N, 1], [N, P]
    d_query = query.new_empty(B * T, H, query.shape[3]).transpose(0, 1)
    d_keys, d_values, d_gates = torch.zeros_like(keys), torch.zeros_like(values), torch.empty_like(gates)
    # Twice the length, because scores and their gradients are in memory at a time.
    blocks = _blocks(H, B * T, 2 * keys.shape[1], query.device)
    raws, us, weights, d_raws, d_queries = (_room(blocks, x) for x in (keys.mT, values.mT, keys.mT, keys.mT, keys))
    for block in blocks:
        q, d_out, g = queries[:, block].to(dtype), grads[:, block].to(dtype), gates[block]
        negative_delta = (d_out * outs[:, block]).sum(-1, keepdim=True).neg_()  # [H, n, 1]
        raw, u = _product(q, in_twos.mT, raws), _product(d_out, values.mT, us)  # [H, n, P]
        n = len(g)
        weight = torch.addcmul(negative_lses[:, block], raw, g, out=weights[:, :n]).exp2_()
        s = torch.addcmul(negative_delta, u, g, out=d_raws[:, :n])
        torch.sum(u.addcmul_(raw, s, value=1 / _LOG2_E).mul_(weight), dim=0, out=d_gates[block])
        d_raw = s.mul_(weight.mul_(g))
        d_values.baddbmm_(weight.mT, d_out)
        d_keys.baddbmm_(d_raw.mT, q)
        d_query[:, block] = _product(d_raw, keys, d_queries)
    d_gate = d_gates.view(B, T, -1).sum_to_size(gate.shape).to(gate.dtype)
    d_prefix_key = _by_group(d_keys.mul_(scale), prefix_key)
    return as_rows(d_query[None], B), d_prefix_key, _by_group(d_values, prefix_value), d_gate


def _room(blocks: Sequence[slice], right: Tensor) -> Tensor:
    """Memory for the product of a block's queries with `right` `[H, K, M]`: `[H, n, M]`, for all blocks in turn.

    Memory that is new for every block is not in a core's cache, and the C library may ask the system for it each time.
    """
    most = max((block.stop - block.start for block in blocks), default=0)
    return right.new_empty(len(right), most, right.shape[2])


def _product(left: Tensor, right: Tensor, room: Tensor) -> Tensor:
    """`left @ right`, `[H, n, M]`, in the memory that `_room` gave."""
    return torch.bmm(left, right, out=room[:, : left.shape[1]])


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores and weights: never below float32."""
    return torch.float32 if dtype in flash.LOW_PRECISION else dtype


def _blocks(heads: int, count: int, length: int, device: torch.device) -> list[slice]:
    """The N queries in runs of one size whose prefix scores `[H, n, P]` are about `BLOCK` numbers."""
    runs = math.ceil(count / max(64, BLOCK[device.type] // (heads * length)))
    size = math.ceil(count / max(runs, 1))
    return [slice(start, min(start + size, count)) for start in range(0, count, max(size, 1))]


def _by_head(prefix: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """`[G, P, D]` to `[H, P, D]`: a copy with each query head's keys or values."""
    return prefix.to(dtype).repeat_interleave(heads // len(prefix), dim=0)


def _by_group(by_head: Tensor, prefix: Tensor) -> Tensor:
    """The gradient `[H, P, D]` of `_by_head(prefix)` as that of `prefix`, `[G, P, D]`."""
    return by_head.unflatten(0, (len(prefix), -1)).sum(1).to(prefix.dtype)


def _by_query(gate: Tensor, batch: int, length: int, dtype: torch.dtype) -> Tensor:
    """The gate `[B|1, T|1, P]` as `[N, P]`."""
    return gate.to(dtype).expand(batch, length, -1).flatten(0, 1)


def one_row(x: Tensor) -> Tensor:
    """`[B, H, T, D]` as `[1, H, N, D]`: a view where memory runs B, T, H, D, as it does in transformer layers."""
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(1, B * T, H, D).transpose(1, 2)


def as_rows(x: Tensor, batch: int) -> Tensor:
    """`[1, H, N, D]` as `[B, H, T, D]`."""
    return x.transpose(1, 2).unflatten(1, (batch, -1))[0].transpose(1, 2)
