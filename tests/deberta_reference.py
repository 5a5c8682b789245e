"""DeBERTa with a prefix, written out from the papers: what tests/test_deberta.py holds the package against."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers.models.deberta import modeling_deberta as v1
from transformers.models.deberta_v2 import modeling_deberta_v2 as v2


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The disentangled attentions of a model, in order."""
    return [m for m in model.modules() if isinstance(m, (v1.DisentangledSelfAttention, v2.DisentangledSelfAttention))]


def reference_logits(
    model: Any, prefix: dict[str, Tensor], gate_input: str | None, inputs: dict[str, Tensor]
) -> Tensor:
    """The logits of a bare `model` whose attention is the one below; `prefix` by the names of its parameters."""
    reference = Reference(model, prefix, gate_input, inputs["attention_mask"])
    with (
        mock.patch.object(v1.DisentangledSelfAttention, "forward", _as_forward(reference.v1)),
        mock.patch.object(v2.DisentangledSelfAttention, "forward", _as_forward(reference.v2)),
    ):
        return model(**inputs).logits


def _as_forward(run: Any) -> Any:
    def forward(self: Any, hidden: Tensor, mask: Tensor, attentions: bool, query_states: None, **options: Any) -> Any:
        assert query_states is None and not attentions
        return run(self, hidden, mask, **options), None

    return forward


class Reference:
    """DeBERTa with a prefix, written out: prefix columns stand beside the token scores before one softmax."""

    def __init__(self, model: Any, prefix: dict[str, Tensor], gate_input: str | None, mask: Tensor) -> None:
        self.places = {id(m): i for i, m in enumerate(attention_modules(model))}
        self.prefix, self.gate_input, self.mask = prefix, gate_input, mask

    def gate(self, layer: int, hidden: Tensor) -> Tensor:
        """lambda * alpha, `[B, T or 1, P]`, from the paper's equation and nothing else."""
        rows = torch.arange(len(hidden))
        states = {
            "token": hidden,
            "first": hidden[rows, self.mask.argmax(-1)][:, None],
            "mean": torch.stack([h[m.bool()].mean(0, keepdim=True) for h, m in zip(hidden, self.mask, strict=True)]),
        }
        weight = self.prefix[f"gates.encoder_{layer}.token_gate.weight"]
        logits = (
            weight.expand(len(hidden), 1, -1) if self.gate_input == "none" else states[self.gate_input or ""] @ weight
        )
        return self.prefix[f"gates.encoder_{layer}.layer_gate"] / (1 + torch.exp(-logits))

    def attend(
        self, module: Any, hidden: Tensor, mask: Tensor, q: Tensor, k: Tensor, v: Tensor, rel: Any, root: float
    ) -> Tensor:
        """q, k, v `[B, H, T, D]`, `rel` the model's own relative scores, `root` what content scores are divided by."""
        layer = self.places[id(module)]
        key, value = self.prefix[f"free.key.encoder_{layer}"], self.prefix[f"free.value.encoder_{layer}"]  # [H, P, D]
        gate = torch.ones(1, 1, 1, dtype=q.dtype) if self.gate_input is None else self.gate(layer, hidden)
        tokens = torch.einsum("bhtd,bhsd->bhts", q, k) / root + rel
        tokens = tokens.masked_fill(~mask.bool(), torch.finfo(q.dtype).min)
        columns = torch.einsum("bhtd,hpd->bhtp", q, key) / root * gate[:, None]
        weights = torch.cat([columns, tokens], dim=-1).softmax(-1)
        P = key.shape[1]
        out = torch.einsum("bhtp,hpd->bthd", weights[..., :P] * gate[:, None], value)
        return (out + torch.einsum("bhts,bhsd->bthd", weights[..., P:], v)).flatten(2)

    def v1(self, module: Any, hidden: Tensor, mask: Tensor, **options: Any) -> Tensor:
        H, terms = module.num_attention_heads, 1 + len(module.pos_att_type)
        per_head = module.in_proj(hidden).unflatten(-1, (H, 3, -1))  # the fused projection is q, k, v within each head
        q, k, v = (x.transpose(1, 2) for x in per_head.unbind(-2))
        q = q + module.q_bias.view(1, H, 1, -1)
        v = v + module.v_bias.view(1, H, 1, -1)
        root = v1.scaled_size_sqrt(q, terms).item()
        rel: Any = 0.0
        if module.relative_attention:
            rel = module.disentangled_att_bias(q / root, k, options["relative_pos"], options["rel_embeddings"], terms)
        return self.attend(module, hidden, mask, q, k, v, rel, root)

    def v2(self, module: Any, hidden: Tensor, mask: Tensor, **options: Any) -> Tensor:
        H, terms = module.num_attention_heads, 1 + len(set(module.pos_att_type) & {"c2p", "p2c"})
        q, k, v = (
            project(hidden).unflatten(-1, (H, -1)).transpose(1, 2)
            for project in (module.query_proj, module.key_proj, module.value_proj)
        )
        root = v2.scaled_size_sqrt(q, terms).item()
        rel: Any = 0.0
        if module.relative_attention:
            rel = module.disentangled_attention_bias(
                q.flatten(0, 1), k.flatten(0, 1), options["relative_pos"], options["rel_embeddings"], terms
            ).view(len(hidden), H, *mask.shape[-2:])
        return self.attend(module, hidden, mask, q, k, v, rel, root)
