"""torch's attention with its log-sum-exp, under the name that it has on each kind of device, and its backward.

The backward takes an output and a log-sum-exp over more keys than it is given (prefixtune.kernel says why); torch's own
ring attention (torch.distributed.tensor.experimental) calls the same operations like that.

Axes: B batch, H query heads, G key/value heads, T queries, S keys, D head size. CUDA's part was never run on a GPU: its
tests put the written formula in the place of torch's operations, and attention.TRIALS compares it with the joined
attention on the GPU itself before it is used there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOW_PRECISION = (torch.float16, torch.bfloat16)
_DTYPES = {
    "cpu": (torch.float64, torch.float32, *LOW_PRECISION),
    "cuda": (torch.float32, *LOW_PRECISION),
}
_SIZES = {"cpu": 1, "cuda": 8}  # on CUDA, heads start at multiples of 16 bytes
_LARGEST = 256  # CUDA's flash attention has no larger heads
_ROW_ALIGNMENT = 32  # CUDA's memory-efficient attention has its log-sum-exp in rows of this many queries
_BIAS_ALIGNMENT = 16

Parts = tuple[Tensor, Tensor, Tensor]


def available(query: Tensor) -> bool:
    """Whether torch has an attention here that gives its log-sum-exp and takes one back. AMD's build is left out."""
    return query.dtype in _DTYPES.get(query.device.type, ()) and not torch.version.hip


def on_cpu(x: Tensor) -> bool:
    """Whether the operations for CPUs take this."""
    return x.device.type == "cpu"


def head_size(size: int, device: torch.device) -> int:
    """The least head size that holds `size` numbers and that this device takes."""
    step = _SIZES[device.type]
    return math.ceil(size / step) * step


def forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Output `[B, H, T, D]`, in memory as `[B, T, H, D]`, and log-sum-exp `[B, H, T]`, in float32 at least.

    query `[B, H, T, D]`, key and value `[B, G, S, D]`, mask `[B|1, H|1, T|1, S]` of finite numbers to add.
    """
    query, key, value = _dense(query), _dense(key), _dense(value)
    if on_cpu(query):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
    if _flashes(query, key, mask, causal):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
        return out.transpose(1, 2).contiguous().transpose(1, 2), lse
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, *_by_head(query, key, value), _bias(mask, query, key), True, 0.0, causal, scale=scale
    )
    return out, lse[..., : query.shape[2]]


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Parts:
    """Gradients of query, key and value, for keys that are all or some of those that `out` and `lse` are over."""
    grad, query, key, value, out = (_dense(x) for x in (grad, query, key, value, out))
    if on_cpu(query):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scale
        )
    unused = torch.empty((), dtype=torch.int64, device=query.device)  # the random state of a dropout, which is 0
    if _flashes(query, key, mask, causal):
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, query, key, value, out, lse.contiguous(), None, None, query.shape[2], key.shape[2], 0.0, causal,
            unused, unused, scale=scale,
        )  # fmt: skip
    rows = F.pad(lse, (0, -lse.shape[-1] % _ROW_ALIGNMENT), value=math.inf)  # no weight for queries that are none
    d_query, d_key, d_value, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, query, *_by_head(query, key, value), _bias(mask, query, key), out, rows.contiguous(), unused, unused,
        0.0, [True, True, True, False], causal, scale=scale,
    )  # fmt: skip
    return d_query, _by_group(d_key, key), _by_group(d_value, value)


def _dense(x: Tensor) -> Tensor:
    """With the head size dense in memory: torch's flash attention takes it for granted and is silently wrong else."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _flashes(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> bool:
    """Whether CUDA's flash attention takes this: half precision, no mask, and causality from corner to corner."""
    square = query.shape[2] == key.shape[2]
    fits = query.dtype in LOW_PRECISION and mask is None and (square or not causal) and query.shape[3] <= _LARGEST
    return fits and _has_flash(query.device)


def _has_flash(device: torch.device) -> bool:
    """From Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _by_head(query: Tensor, *given: Tensor) -> list[Tensor]:
    """Keys and values `[B, G, S, D]` for each query head, `[B, H, S, D]`: memory-efficient attention has no groups."""
    each = query.shape[1] // given[0].shape[1]
    return list(given) if each == 1 else [x.repeat_interleave(each, dim=1) for x in given]


def _by_group(by_head: Tensor, given: Tensor) -> Tensor:
    """The gradient `[B, H, S, D]` of `_by_head(given)` as that of `given`, `[B, G, S, D]`."""
    return by_head.unflatten(1, (given.shape[1], -1)).sum(2)


def _bias(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask of every head and query `[B, H, T, S]`, each row of it at an aligned place in memory."""
    if mask is None:
        return None
    rows = F.pad(mask, (0, -mask.shape[-1] % _BIAS_ALIGNMENT))[..., : mask.shape[-1]]
    return rows.expand(*query.shape[:3], key.shape[2])
