"""Attention to a prefix beside the model's own, outside its softmax: added to what the model attends to.

Axes: B batch, H query heads, G key/value heads, P prefix length, T queries, S keys, D head size.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from prefixtune import kernel
from prefixtune.attention import AttentionCall, add_mask, mix, scores, softmax_with_sinks


def separate_attention(
    call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor, factor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """A softmax of its own over the prefix, added to the model's attention.

        out = attention(q, K, V)  +  factor[h] * softmax(scale * q . K_p) V_p

    prefix_key `[G, P, Dk]`, prefix_value `[G, P, Dv]`, both with a `B` in front where each row has its own;
    factor `[H]`, None = 1; the second q is `call.content`. With `factor = 0` the result is the model's own, exactly.
    Source: LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199), equations 4 to 9.
    """
    out, weights = call.run_base()
    query, prefix_key, prefix_value = call.content, prefix_key.to(call.key.dtype), prefix_value.to(call.value.dtype)
    if call.prefix_mask is None and prefix_key.ndim == 3:
        alone = kernel.prefix_attention(query, prefix_key, prefix_value, call.scale)  # [B, H, T, Dv]
    else:
        score = add_mask(scores(replace(call, query=query), prefix_key), call.prefix_mask)
        shares = softmax_with_sinks(score, {})
        if call.prefix_mask is not None:
            shares = shares.masked_fill(~call.prefix_mask, 0.0)  # where none is left, a mean of all
        alone = mix(shares, prefix_value)
    if factor is not None:
        alone = alone * factor.to(out.dtype).view(1, -1, 1, 1)
    return out + alone.transpose(1, 2), weights


def linear_attention(call: AttentionCall, prefix_key: Tensor, prefix_value: Tensor) -> tuple[Tensor, Tensor | None]:
    """No softmax over the prefix at all, added to the model's attention.

        out = attention(q, K, V)  +  sum_j scale * (q . k_p[j]) v_p[j]

    prefix_key `[G, P, Dk]`, prefix_value `[G, P, Dv]`, both with a `B` in front where each row has its own; the second
    q is `call.content`. The sum over j is one matrix `[Dk, Dv]`, so a long prefix costs no more than a product of q by
    that.
    """
    out, weights = call.run_base()
    query, prefix_key, prefix_value = call.content, prefix_key.to(call.key.dtype), prefix_value.to(call.value.dtype)
    if call.prefix_mask is None and 2 * prefix_key.shape[-2] > query.shape[3]:
        alone = mix(query, prefix_key.mT @ prefix_value * call.scale)  # [B, H, T, Dv]
    else:
        score = scores(replace(call, query=query), prefix_key)
        if call.prefix_mask is not None:
            score = score.masked_fill(~call.prefix_mask, 0.0)
        alone = mix(score, prefix_value)
    return out + alone.transpose(1, 2), weights
