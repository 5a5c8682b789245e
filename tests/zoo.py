"""Tiny random models of every architecture in the contract, and inputs for them.

A new architecture is one more line here. Depths, head counts and head sizes are chosen to be unequal wherever the
architecture lets them be, so that arithmetic on the config would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import Tensor
from transformers import PreTrainedModel

VOCABULARY = 64
PAD = 0


@dataclass(frozen=True)
class Architecture:
    """One architecture of the contract: how to make a tiny random model of it, and what kind it is."""

    name: str
    kind: str  # 'decoder', 'encoder', 'encoder-decoder' or 'vision'
    build: Callable[[], PreTrainedModel]

    def make(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model, in evaluation mode, the same weights at every call, biases and scales not left at 0 and 1."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        if dtype == torch.float64 and "set_experts_implementation" in dir(model):
            model.set_experts_implementation("eager")  # the grouped kernel has no double precision
        return model.to(dtype).eval()


def _base(**options: Any) -> dict[str, Any]:
    return {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2} | options


def _llama_like(**options: Any) -> dict[str, Any]:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return _base(**(shape | options))


def _bert_like(**options: Any) -> dict[str, Any]:
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return _base(**(shape | options))


def _causal(config: Any) -> Callable[[], PreTrainedModel]:
    return lambda: tf.AutoModelForCausalLM.from_config(config())


def _masked(config: Any) -> Callable[[], PreTrainedModel]:
    return lambda: tf.AutoModelForMaskedLM.from_config(config())


def _seq2seq(config: Any) -> Callable[[], PreTrainedModel]:
    return lambda: tf.AutoModelForSeq2SeqLM.from_config(config())


def _bart_like(config: type, **options: Any) -> Callable[[], PreTrainedModel]:
    shape = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": None,
    }
    return _seq2seq(lambda: config(**_base(**(shape | options))))


ARCHITECTURES = [
    Architecture(
        "gpt2", "decoder", _causal(lambda: tf.GPT2Config(**_base(n_embd=32, n_layer=2, n_head=4, n_positions=128)))
    ),
    Architecture("llama", "decoder", _causal(lambda: tf.LlamaConfig(**_llama_like(head_dim=12)))),
    Architecture("qwen3", "decoder", _causal(lambda: tf.Qwen3Config(**_llama_like(head_dim=16)))),
    Architecture("mistral", "decoder", _causal(lambda: tf.MistralConfig(**_llama_like(sliding_window=8)))),
    Architecture(
        "gemma2",
        "decoder",
        # Eager, which transformers 5.16 does not choose by itself: its sdpa leaves the softcap out.
        lambda: tf.AutoModelForCausalLM.from_config(
            tf.Gemma2Config(**_llama_like(head_dim=12, sliding_window=8, attn_logit_softcapping=5.0)),
            attn_implementation="eager",
        ),
    ),
    Architecture(
        "gemma3",
        "decoder",
        _causal(
            lambda: tf.Gemma3TextConfig(
                **_llama_like(
                    head_dim=12,
                    sliding_window=8,
                    num_hidden_layers=3,
                    layer_types=["sliding_attention"] * 2 + ["full_attention"],
                )
            )
        ),
    ),
    Architecture(
        "gpt_oss",
        "decoder",
        _causal(
            lambda: tf.GptOssConfig(
                **_llama_like(
                    head_dim=12,
                    sliding_window=8,
                    num_local_experts=2,
                    num_experts_per_tok=1,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                )
            )
        ),
    ),
    Architecture(
        "opt",
        "decoder",
        _causal(
            lambda: tf.OPTConfig(
                **_base(
                    hidden_size=32,
                    ffn_dim=48,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=128,
                    word_embed_proj_dim=24,
                )
            )
        ),
    ),
    Architecture("gpt_neox", "decoder", _causal(lambda: tf.GPTNeoXConfig(**_llama_like()))),
    Architecture("phi3", "decoder", _causal(lambda: tf.Phi3Config(**_llama_like()))),
    Architecture(
        "deepseek_v3",
        "decoder",
        _causal(
            lambda: tf.DeepseekV3Config(
                **_llama_like(
                    num_key_value_heads=4,
                    q_lora_rank=16,
                    kv_lora_rank=16,
                    qk_rope_head_dim=8,
                    qk_nope_head_dim=12,
                    v_head_dim=10,
                    n_routed_experts=4,
                    num_experts_per_tok=2,
                    n_group=2,
                    topk_group=1,
                    first_k_dense_replace=1,
                    moe_intermediate_size=16,
                )
            )
        ),
    ),
    Architecture("mqa", "decoder", _causal(lambda: tf.LlamaConfig(**_llama_like(num_key_value_heads=1)))),
    Architecture("bert", "encoder", _masked(lambda: tf.BertConfig(**_bert_like()))),
    Architecture("roberta", "encoder", _masked(lambda: tf.RobertaConfig(**_bert_like()))),
    Architecture("electra", "encoder", _masked(lambda: tf.ElectraConfig(**_bert_like(embedding_size=16)))),
    Architecture(
        "distilbert",
        "encoder",
        _masked(
            lambda: tf.DistilBertConfig(
                **_base(dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64)
            )
        ),
    ),
    Architecture(
        "albert", "encoder", _masked(lambda: tf.AlbertConfig(**_bert_like(embedding_size=16, num_hidden_layers=3)))
    ),
    Architecture(
        "modernbert",
        "encoder",
        _masked(
            lambda: tf.ModernBertConfig(
                **_bert_like(
                    num_hidden_layers=3, local_attention=8, global_attn_every_n_layers=3, cls_token_id=1, sep_token_id=2
                )
            )
        ),
    ),
    Architecture(
        "deberta",
        "encoder",
        _masked(lambda: tf.DebertaConfig(**_bert_like(relative_attention=True, pos_att_type=["c2p", "p2c"]))),
    ),
    Architecture(
        "deberta-v2",
        "encoder",
        _masked(
            lambda: tf.DebertaV2Config(
                **_bert_like(
                    relative_attention=True,
                    pos_att_type=["c2p", "p2c"],
                    position_buckets=8,
                    share_att_key=True,
                    norm_rel_ebd="layer_norm",
                    position_biased_input=False,
                )
            )
        ),
    ),
    Architecture("bart", "encoder-decoder", _bart_like(tf.BartConfig)),
    Architecture("pegasus", "encoder-decoder", _bart_like(tf.PegasusConfig)),
    Architecture(  # bare transformers cannot generate with a T5 whose decoder is the deeper one
        "t5",
        "encoder-decoder",
        _seq2seq(
            lambda: tf.T5Config(
                **_base(
                    d_model=32,
                    d_kv=12,
                    d_ff=48,
                    num_layers=3,
                    num_decoder_layers=2,
                    num_heads=4,
                    decoder_start_token_id=1,
                )
            )
        ),
    ),
    Architecture(  # an encoder whose config says encoder-decoder
        "umt5-encoder",
        "encoder",
        lambda: tf.UMT5ForTokenClassification(
            tf.UMT5Config(**_base(d_model=32, d_kv=12, d_ff=48, num_layers=3, num_heads=4, num_labels=5))
        ),
    ),
    Architecture(
        "vit",
        "vision",
        lambda: tf.ViTForImageClassification(
            tf.ViTConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=16,
                patch_size=4,
                num_labels=5,
            )
        ),
    ),
]

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


def inputs_for(architecture: Architecture, rows: int = 2, length: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Random unpadded inputs: `rows` texts of `length` tokens (or images)."""
    generator = torch.Generator().manual_seed(seed)
    if architecture.kind == "vision":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if architecture.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.randint(3, VOCABULARY, (rows, length - 2), generator=generator)
    return inputs


def in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs with floating ones in `dtype`."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def pad(inputs: dict[str, Tensor], side: str, count: int) -> dict[str, Tensor]:
    """The same texts with `count` padding tokens on one side (of the encoder's text, in an encoder-decoder)."""
    padding = (count, 0) if side == "left" else (0, count)
    padded = dict(inputs)
    padded["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], padding, value=PAD)
    padded["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], padding, value=0)
    return padded


def unpad(logits: Tensor, side: str, count: int) -> Tensor:
    """The logits of the real tokens."""
    return logits[:, count:] if side == "left" else logits[:, : logits.shape[1] - count]
