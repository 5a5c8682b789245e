"""DeBERTa v1, v2 and v3: disentangled attention, handed over to transformers' attention interface.

A score between tokens is a sum over content and relative position (He et al. 2021, arXiv 2006.03654, section 3.1):

    score_s[b,h,t,s] = (q[t] . k[s]  +  q[t] . k_rel[t-s]  +  k[s] . q_rel[s-t]) / sqrt(D * n)

with n the number of terms in use. The first term becomes query, key and `scaling` of an ordinary attention, the other
two its `position_bias` `[B, H, T, S]`. A prefix has no position relative to the text, so its scores have the first term
alone, under the same n, and the text keeps position 0: with relative attention, any other position offset is refused.

Until detach, each attention module is an instance of a class from this file, whose `eager_attention_forward` is the
base function of the seam. Every operation keeps the order that it has in transformers, so without a prefix all numbers
are those of the base model to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention as DebertaAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention as DebertaV2Attention

from prefixtune.attention import add_mask
from prefixtune.errors import ModelError

MODEL_TYPES = ("deberta", "deberta-v2")


class RoutedDebertaAttention(DebertaAttention):
    """Version 1: one projection for query, key and value, with the biases beside it."""

    config: PreTrainedConfig  # set by `route`

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states `[B, T, d]`, attention_mask `[B, 1, T, T]`; returns `[B, T, H * D]` and weights if asked."""
        _refuse_other_queries(query_states)
        query, key, value = self.transpose_for_scores(self.in_proj(hidden_states)).chunk(3, dim=-1)  # [B, H, T, D]
        query = query + self.transpose_for_scores(self.q_bias[None, None, :])
        value = value + self.transpose_for_scores(self.v_bias[None, None, :])
        bias = None
        if self.relative_attention:
            assert rel_embeddings is not None and relative_pos is not None  # the encoder brings both
            scaled, positions = query / divisor(query, self.terms), self.pos_dropout(rel_embeddings)
            bias = self.disentangled_att_bias(scaled, key, relative_pos, positions, self.terms)
            bias = bias if isinstance(bias, Tensor) else None  # 0 where no kind of relative position is named
        return _hand_over(self, query, key, value, attention_mask, bias, output_attentions)

    @property
    def terms(self) -> int:
        """n: content to content, and each kind of relative position the config names."""
        return 1 + len(self.pos_att_type)

    def content_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """`q . k / sqrt(D * n)`, `[B, H, T, S]`; this version divides the queries."""
        return torch.matmul(query / divisor(query, self.terms), key.transpose(-1, -2))


class RoutedDebertaV2Attention(DebertaV2Attention):
    """Versions 2 and 3: three projections, which may serve the relative positions as well (`share_att_key`)."""

    config: PreTrainedConfig  # set by `route`

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states `[B, T, d]`, attention_mask `[B, 1, T, T]`; returns `[B, T, H * D]` and weights if asked."""
        _refuse_other_queries(query_states)
        heads = (-1, self.num_attention_heads)
        query, key, value = (  # [B * H, T, D], as the bias wants them
            self.transpose_for_scores(project(hidden_states), self.num_attention_heads)
            for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        bias = None
        if self.relative_attention:
            positions = self.pos_dropout(rel_embeddings)
            bias = self.disentangled_attention_bias(query, key, relative_pos, positions, self.terms)
            bias = bias.unflatten(0, heads) if isinstance(bias, Tensor) else None
        query, key, value = (x.unflatten(0, heads) for x in (query, key, value))
        return _hand_over(self, query, key, value, attention_mask, bias, output_attentions)

    @property
    def terms(self) -> int:
        """n: content to content, and each kind of relative position in use."""
        return 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)

    def content_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """`q . k / sqrt(D * n)`, `[B, H, T, S]`; these versions divide the keys."""
        return torch.matmul(query, key.transpose(-1, -2) / divisor(query, self.terms))


Routed = RoutedDebertaAttention | RoutedDebertaV2Attention

_ROUTED: dict[type[nn.Module], type[nn.Module]] = {
    DebertaAttention: RoutedDebertaAttention,
    DebertaV2Attention: RoutedDebertaV2Attention,
}


def route(model: PreTrainedModel) -> list[Callable[[], object]]:
    """Let every disentangled attention of `model` call the attention interface; returns what undoes it.

    Raises ModelError, and changes nothing, where that would not compute what the model computes.
    """
    kinds = (DebertaAttention, DebertaV2Attention)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    for name, module in found.items():
        _check(name, module)
    undo: list[Callable[[], object]] = []
    for module in found.values():
        undo.append(partial(_put_back, module, type(module)))
        module.__class__ = _ROUTED[type(module)]  # type: ignore[assignment]
        vars(module)["config"] = model.config  # where the seam's name stands while a prefix is attached
    return undo


def _put_back(module: nn.Module, own: type[nn.Module]) -> None:
    module.__class__ = own
    del vars(module)["config"]


def _check(name: str, module: nn.Module) -> None:
    if type(module) not in _ROUTED:
        raise ModelError(
            f"{name} is a {type(module).__name__} of {type(module).__module__}, which may compute something else than "
            "transformers' own DisentangledSelfAttention; expected that class itself"
        )
    if "forward" in vars(module):
        raise ModelError(
            f"{name} has a forward of its own in place (a patch, or accelerate's hooks for several devices), which a "
            "prefix would bypass; load the model onto one device and without patches"
        )
    if isinstance(module, DebertaAttention) and module.talking_head:
        raise ModelError(
            f"{name} mixes its heads before and after the softmax (talking_head=True), so a prefix has no softmax to "
            "join; expected a DeBERTa with talking_head=False"
        )


def eager_attention_forward(
    module: Routed,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """DeBERTa's attention, `[B, T, H, D]`, and its weights `[B, H, T, S]` after dropout, as DeBERTa gives them.

    The option `scaling` is not read: the module divides by the root itself, on the side where its version does.
    """
    score = module.content_scores(query, key)
    score = add_mask(score if position_bias is None else score + position_bias, mask)
    weights = F.dropout(torch.softmax(score, dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def divisor(query: Tensor, terms: int) -> Tensor:
    """`sqrt(D * n)`, rooted in float32 and then in the model's dtype, as transformers does."""
    return torch.sqrt(torch.tensor(query.shape[-1], dtype=torch.float) * terms).to(query.dtype)


def _hand_over(
    module: Routed,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    output_attentions: bool,
) -> tuple[Tensor, Tensor | None]:
    """Call the attention interface as other models do."""
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    options: dict[str, Any] = {} if bias is None else {"position_bias": bias}
    options["scaling"] = 1 / divisor(query, module.terms).item()
    options["dropout"] = module.dropout.p if module.training else 0.0
    out, weights = attend(module, query, key, value, mask.bool(), **options)
    return out.flatten(2), weights if output_attentions else None


def _refuse_other_queries(query_states: Tensor | None) -> None:
    if query_states is not None:
        raise ModelError(
            "query_states (DeBERTa's enhanced mask decoder, z_steps > 1) cannot run under a prefix, whose gates read "
            "queries and keys from the same hidden states; detach the prefix, or set z_steps = 0"
        )
