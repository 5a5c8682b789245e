"""The arithmetic of a prefix: joint attention over prefix and tokens, as pure tensor functions.

Axes: B batch, H query heads, G key/value heads, P prefix length, T queries, S keys, D head size.
Nothing here knows a model, a method or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefixtune import flash, gating, kernel
from prefixtune.gating import Origin
from prefixtune.rotary import Rotation
from prefixtune.trials import Trials, synchronised

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class AttentionCall:
    """What a model handed to its attention function, for some rows of one layer.

    `base` is the function the model would have called; it returns `[B, T, H, Dv]` and, if it has them, the weights.
    """

    module: torch.nn.Module
    query: Tensor  # [B, H, T, Dk]
    key: Tensor  # [B, G, S, Dk]
    value: Tensor  # [B, G, S, Dv]
    mask: Tensor | None  # [B|1, H|1, T|1, S]: bool (True = visible) or additive float; None = all, or causal
    options: dict[str, Any]  # scaling, dropout, is_causal, softcap, s_aux, position_bias, ... as the model gave them
    base: AttentionFunction
    causal: bool  # what `mask is None` means: True = causal, False = every key is visible
    hidden: Tensor | None = None  # [B, T, d]: what the attention module read
    origin: Origin | None = None  # how to make `hidden` again, where that is known
    start: Tensor | None = None  # [B, d]: the same at position 0 of the real text
    real: Tensor | None = None  # [B, T]: True where a query is text, not padding
    prefix_mask: Tensor | None = None  # [B, 1, T, P]: which prefix positions a query sees; None = all
    prefix_bias: Tensor | None = None  # [B|1, H, T, P]: what the model's position bias adds to prefix scores
    rotation: Rotation | None = None  # by which angles a rotary embedding turned `query`, where a prefix asks for that
    rows: Tensor | None = None  # which rows of the batch these are; None = all
    made: tuple[Tensor, Tensor] | None = None  # the prefix's keys and values, where they were made before this layer

    @property
    def scale(self) -> float:
        """The factor of the scores: the model's own, or `1 / sqrt(Dk)`."""
        scaling = self.options.get("scaling")
        return self.query.shape[-1] ** -0.5 if scaling is None else scaling

    @property
    def content(self) -> Tensor:
        """The query `[B, H, T, Dk]`, not turned by a rotary embedding where a prefix asks for that."""
        return self.query if self.rotation is None else self.rotation.undo(self.query)

    def run_base(self) -> tuple[Tensor, Tensor | None]:
        """The model's own attention, as if there were no prefix."""
        return self.base(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def select(self, rows: Tensor) -> AttentionCall:
        """The same call for some rows of the batch (`rows`: `[b]` indices)."""
        batch = self.query.shape[0]

        def pick(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[0] != batch else x.index_select(0, rows)

        options = {name: pick_option(value, batch, rows) for name, value in self.options.items()}
        tensors: dict[str, Any] = {name: pick(getattr(self, name)) for name in _PER_ROW}
        origin = None if self.origin is None else self.origin.then(lambda hidden: hidden.index_select(0, rows))
        turned = self.rotation
        if turned is not None:
            turned = turned.map(lambda angle: angle if len(angle) == 1 else angle.index_select(0, rows))
        return replace(self, options=options, rows=rows, origin=origin, rotation=turned, **tensors)


_PER_ROW = ("query", "key", "value", "mask", "hidden", "start", "real", "prefix_mask", "prefix_bias")


def pick_option(value: Any, batch: int, rows: Tensor) -> Any:
    """An attention option for some rows: four-axis tensors with the batch in front are per row, the rest is shared."""
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[0] == batch:
        return value.index_select(0, rows)
    return value


def is_causal(mask: Tensor | None, options: dict[str, Any], module: torch.nn.Module, query_length: int) -> bool:
    """What a missing mask means to the model's attention (the rule of transformers' sdpa integration)."""
    if mask is not None or query_length == 1:
        return False
    given = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def visible_mask(call: AttentionCall) -> Tensor | None:
    """The mask over the S token keys with causality spelled out, `[B|1, H|1, T|1, S]`; None if all are visible."""
    if call.mask is not None or not call.causal:
        return call.mask
    T, S = call.query.shape[2], call.key.shape[2]
    return torch.ones(T, S, dtype=torch.bool, device=call.query.device).tril_().view(1, 1, T, S)


def cut_unwritten_keys(call: AttentionCall) -> AttentionCall:
    """Drop the tail of a static cache that a mask-free causal prefill has not written yet.

    Without a mask, sdpa aligns causality to the upper left, so keys past the query length are never seen.
    """
    T, S = call.query.shape[2], call.key.shape[2]
    if call.mask is not None or not call.causal or S <= T:
        return call
    options = dict(call.options)
    if options.get("position_bias") is not None:
        options["position_bias"] = options["position_bias"][..., :T]
    return replace(call, key=call.key[:, :, :T], value=call.value[:, :, :T], options=options)


def prepend_prefix_mask(mask: Tensor | None, call: AttentionCall, length: int) -> Tensor | None:
    """`mask` with `length` columns for the prefix in front: visible, unless `call.prefix_mask` says otherwise."""
    if mask is None and call.prefix_mask is None:
        return None
    B, T, S = call.query.shape[0], call.query.shape[2], call.key.shape[2]
    if mask is None:  # additive, which both sdpa and every eager function understand
        mask = call.query.new_zeros(1, 1, T, S)
    columns = mask.new_ones(1, 1, 1, length) if mask.dtype == torch.bool else mask.new_zeros(1, 1, 1, length)
    if call.prefix_mask is not None:
        hidden = mask.new_zeros(()) if mask.dtype == torch.bool else mask.new_full((), torch.finfo(mask.dtype).min)
        columns = torch.where(call.prefix_mask, columns, hidden)
        mask = mask.expand(B, -1, T, -1)
    columns = columns.expand(*mask.shape[:3], length)
    return torch.cat([columns, mask], dim=-1)


def joint_attention(
    call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """One softmax over prefix and tokens.

        score_p[b,h,t,j] = scale * (q[b,h,t] . k_p[g(h),j]) * gate[b,t,j]
        score_s[b,h,t,s] = scale * (q[b,h,t] . k[b,g(h),s]) + mask
        a   = softmax([score_p ; score_s])
        out = sum_j a_j * gate_j * v_p[j]  +  sum_s a_s * v[s]

    prefix_key `[G, P, Dk]`, prefix_value `[G, P, Dv]`, both with a `B` in front where each row has its own; gate
    `[B|1, T|1, P]` or None (= 1). Returns `[B, T, H, Dv]` and the weights `[B, H, T, P + S]` where the model's own
    function gives them. Source: Prefix-Tuning (Li & Liang 2021), section 4; the gate is APT's (Zhang et al. 2023),
    applied without a copy of K and V per example.
    """
    prefix_key, prefix_value = prefix_key.to(call.key.dtype), prefix_value.to(call.value.dtype)
    shared = prefix_key.ndim == 3  # only then is there less to compute than by joining
    if shared and can_merge(call) and merging_pays(call, prefix_key, prefix_value, gate):
        return merge(call, prefix_key, prefix_value, gate), None
    return _join(call, prefix_key, prefix_value, gate)


def _join(
    call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The joint attention by the model's own function, or written out."""
    if gate is not None and gate.shape[1] > 1:
        return _gated_by_position(call, prefix_key, prefix_value, gate.to(call.query.dtype))
    if gate is not None:
        factor = gate.to(call.key.dtype).transpose(1, 2)[:, None]  # [B|1, 1, P, 1]
        return _joined_keys(call, prefix_key * factor, prefix_value * factor)
    return _joined_keys(call, prefix_key, prefix_value)


def can_merge(call: AttentionCall) -> bool:
    """Whether `kernel.merged_attention` computes exactly what this call asks for."""
    options, bias = call.options, call.options.get("position_bias")
    return (
        call.base is sdpa_attention_forward
        and flash.available(call.query)
        and len(call.query) == len(call.key)
        and not options.get("dropout")
        and options.get("softcap") is None  # which sdpa refuses, with its own message
        and options.get("cache") is None  # a paged cache, which sdpa updates itself
        and (bias is None or not bias.requires_grad)
        and (call.mask is None or not call.mask.requires_grad)  # BEiT's learned bias comes in it
        and not gating.transformed()
        and call.prefix_bias is None
        and call.prefix_mask is None
    )


def merging_pays(call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None) -> bool:
    """Whether merging is faster than joining: on CPUs by benchmarks/attention.py, on one core; elsewhere by trial.

    A short prefix in front of some hundred tokens is cheaper joined: there, flash attention gains nothing from
    causality yet. Decoding in a small batch is all overhead.
    """
    if call.query.device.type != "cpu":
        return _wins_its_trial(call, prefix_key, prefix_value, gate)
    B, T, S, length = len(call.query), call.query.shape[2], call.key.shape[2], prefix_key.shape[1]
    if T == 1:
        return B * (S + length) > 1024
    if gate is not None and gate.shape[1] > 1:
        short = max(T, S) < SHORT_TEXT and length <= SHORT_PREFIX
        return not (short and call.query.dtype == torch.bfloat16 and _is_trained(call))
    return S >= 512 or 4 * length > S


SHORT_TEXT, SHORT_PREFIX = 192, 32
"""Fewer tokens behind such a prefix train faster in bfloat16 with the formula written out, under a gate by position.

There, torch's flash backward takes 32 queries at a time, which is slow in bfloat16; the formula is plain products.
benchmarks/attention.py --dtype bfloat16 has it: at 64 tokens with P=16 the formula takes 0.4 to 0.7 of the attention
without a prefix, merged 1.2 to 1.4. It keeps its scores for the backward, so a longer prefix, with which it is faster
too, is not worth the memory; at 16x256 it is behind.
"""


def _is_trained(call: AttentionCall) -> bool:
    """Whether the text's part has a backward."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in (call.query, call.key, call.value))


TRIALS = Trials(synchronised)


def _wins_its_trial(call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None) -> bool:
    """What was found for calls of about this shape, by running both ways the first time."""
    if torch.compiler.is_compiling() or (call.query.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False  # nothing can be timed in a graph
    inputs = (call.query, call.key, call.value, prefix_key, prefix_value, gate)
    shapes = [None if x is None else tuple(_rounded(size) for size in x.shape) for x in (*inputs, call.mask)]
    asking = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in inputs]
    kind = (call.query.device, call.query.dtype, call.causal, "position_bias" in call.options, *shapes, *asking)

    def of(query: Tensor, key: Tensor, value: Tensor) -> AttentionCall:
        return replace(call, query=query, key=key, value=value)

    def merged(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, g: Tensor | None) -> Tensor:
        return merge(of(q, k, v), pk, pv, g)

    def joined(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, g: Tensor | None) -> Tensor:
        return _join(of(q, k, v), pk, pv, g)[0]

    return TRIALS.wins(kind, merged, joined, inputs)


def _rounded(size: int) -> int:
    """The next power of two: lengths that differ a little are one kind."""
    return 1 << (size - 1).bit_length() if size else 0


def merge_mixed(call: AttentionCall, parts: Sequence[kernel.Part]) -> Tensor:
    """The joint attention of rows under prefixes of their own, or none: `[B, T, H, Dv]`. It has no gradient."""
    call, mask = _with_one_mask(call)
    query, key, value = call.query, call.key, call.value
    with torch.no_grad():
        return kernel.mixed_attention(query, key, value, parts, mask, call.causal and mask is None, call.scale)


def merge(call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor | None) -> Tensor:
    """The joint attention by `kernel.merged_attention`: `[B, T, H, Dv]`."""
    call, mask = _with_one_mask(call)
    return kernel.merged_attention(
        call.query, call.key, call.value, prefix_key, prefix_value, gate, mask, call.causal and mask is None, call.scale
    )


def _with_one_mask(call: AttentionCall) -> tuple[AttentionCall, Tensor | None]:
    """The call without unwritten keys, and its mask, which a position bias is part of."""
    call = cut_unwritten_keys(call)
    bias = call.options.get("position_bias")
    return call, call.mask if bias is None else add_mask(bias, visible_mask(call))


def _joined_keys(call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor) -> tuple[Tensor, Tensor | None]:
    """The model's own attention over keys and values with the prefix in front; prefix_key `[(B|1,) G, P, Dk]`."""
    call = cut_unwritten_keys(call)
    B, P = call.key.shape[0], prefix_key.shape[-2]
    key = torch.cat([prefix_key.expand(B, -1, -1, -1), call.key], dim=2)  # [B, G, P + S, Dk]
    value = torch.cat([prefix_value.expand(B, -1, -1, -1), call.value], dim=2)
    mask = prepend_prefix_mask(visible_mask(call), call, P)
    options = dict(call.options, is_causal=False)  # causality is in the mask now: sdpa must not slice the keys
    options["position_bias"] = prepend_bias(call, P)
    if options["position_bias"] is None:
        del options["position_bias"]
    return call.base(call.module, call.query, key, value, mask, **options)


def prepend_bias(call: AttentionCall, length: int) -> Tensor | None:
    """The model's position bias `[B|1, H, T, P + S]`, with the prefix's own columns (zero unless it has positions)."""
    bias = call.options.get("position_bias")
    if bias is None:
        return None
    if call.prefix_bias is None:
        return torch.cat([bias.new_zeros(*bias.shape[:3], length), bias], dim=-1)
    rows = max(len(bias), len(call.prefix_bias))
    both = (call.prefix_bias.to(bias.dtype), bias)
    return torch.cat([columns.expand(rows, -1, -1, -1) for columns in both], dim=-1)


def scores(call: AttentionCall, key: Tensor) -> Tensor:
    """`scale * q . k`, `[B, H, T, S]`, without mask or bias, heads of a group sharing a key; key `[(B,) G, S, Dk]`."""
    B, H, T, D = call.query.shape
    G, S = key.shape[-3], key.shape[-2]
    grouped = call.query.reshape(B, G, H // G * T, D)
    return (grouped @ key.mT).view(B, H, T, S) * call.scale


def mix(weights: Tensor, value: Tensor) -> Tensor:
    """`sum_s weights_s v[s]`: weights `[B, H, T, S]`, value `[(B,) G, S, Dv]` to `[B, H, T, Dv]`."""
    B, H, T, S = weights.shape
    G = value.shape[-3]
    return (weights.reshape(B, G, H // G * T, S) @ value).view(B, H, T, -1)


def _gated_by_position(
    call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The formula written out, for a gate that differs from query to query (`[B, T, P]`): no key can carry it."""
    call = cut_unwritten_keys(call)
    P = prefix_key.shape[-2]
    gate = gate[:, None]  # [B, 1, T, P]
    score = torch.cat([scores(call, prefix_key) * gate, scores(call, call.key)], dim=-1)  # [B, H, T, P + S]
    softcap = call.options.get("softcap")
    if softcap is not None and call.base is not sdpa_attention_forward:  # which has none, whatever it is asked for
        score = torch.tanh(score / softcap) * softcap
    bias = prepend_bias(call, P)
    if bias is not None:
        score = score + bias
    weights = softmax_with_sinks(add_mask(score, prepend_prefix_mask(visible_mask(call), call, P)), call.options)
    dropped = F.dropout(weights, p=call.options.get("dropout", 0.0), training=call.module.training)
    out = mix(dropped[..., :P] * gate, prefix_value) + mix(dropped[..., P:], call.value)
    return out.transpose(1, 2).contiguous(), weights


def add_mask(score: Tensor, mask: Tensor | None) -> Tensor:
    """`score` with a boolean (True = visible) or additive mask."""
    if mask is None:
        return score
    if mask.dtype == torch.bool:
        return score.masked_fill(~mask, torch.finfo(score.dtype).min)
    return score + mask


def softmax_with_sinks(score: Tensor, options: dict[str, Any]) -> Tensor:
    """Softmax over the last axis, in float32 at least; a model's sinks take their share of it.

    They are `s_aux`, `[H]`, or, one for each query, `sinks`, `[B, H, T, 1]`.
    """
    sinks = options.get("s_aux") if options.get("sinks") is None else options["sinks"]
    dtype = score.dtype
    score = score.float() if dtype in (torch.float16, torch.bfloat16) else score
    if sinks is None:
        return torch.softmax(score, dim=-1).to(dtype)
    column = sinks.to(score.dtype)
    column = (column if column.ndim == 4 else column.view(1, -1, 1, 1)).expand(*score.shape[:3], 1)
    return torch.softmax(torch.cat([score, column], dim=-1), dim=-1)[..., :-1].to(dtype)


def plain_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Attention written out, for models whose file has no `eager_attention_forward`: `[B, T, H, Dv]` and weights."""
    call = AttentionCall(module, query, key, value, mask, options, plain_attention, causal=False)
    score = scores(call, call.key)
    bias = options.get("position_bias")
    weights = softmax_with_sinks(add_mask(score if bias is None else score + bias, mask), options)
    dropped = F.dropout(weights, p=options.get("dropout", 0.0), training=module.training)
    return mix(dropped, value).transpose(1, 2).contiguous(), weights
