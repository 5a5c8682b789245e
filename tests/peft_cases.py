"""Tiny random models with a prefix trained by PEFT, or here, and what they answer: for the tests against PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor
from transformers import PreTrainedModel

import prefixtune as pt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what PEFT's own imports warn of is none of this project's business
    peft = pytest.importorskip("peft", reason="PEFT is not installed; it is the reference of these tests")

PEFT_WARNS = [
    # Saving, PEFT looks for the base's config to see whether the vocabulary was resized; these bases have no folder.
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    # PEFT asks every base for it; transformers has renamed it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

P = 4
CLOSE = 5e-6  # the merged kernel adds in another order than a cache; 2e-6 is the most seen
BASE = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROWS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
WIDE = BASE | ROWS | {"hidden_size": 32, "intermediate_size": 48}
GROUPED = WIDE | {"num_key_value_heads": 2, "head_dim": 12}
BART = BASE | {
    "d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 64, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
T5 = BASE | {"d_model": 32, "d_kv": 12, "d_ff": 48, "num_heads": 4, "decoder_start_token_id": 1}


@dataclass(frozen=True)
class Case:
    """A tiny random model and the task that PEFT calls it by."""

    task: str
    kind: str
    config: Callable[[], Any]
    token_dim: int | None = None  # for PEFT, which takes the width for heads x head size

    def make(self) -> PreTrainedModel:
        """The same weights at every call, biases and scales not left at 0 and 1."""
        torch.manual_seed(0)
        model = getattr(tf, self.kind)(self.config())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
        return model.eval()

    @property
    def seq2seq(self) -> bool:
        return self.task == "SEQ_2_SEQ_LM"

    @property
    def method(self) -> dict[str, Any]:
        """The options under which a prefix stands where PEFT's does."""
        site = "encoder" if self.kind.startswith(("Bert", "Roberta", "Electra")) else "decoder"
        return {"length": P, "sites": [site], "position_offset": {site: P}, "window": "scroll"}


LAYERS = ["sliding_attention", "full_attention"]
CASES = {
    "gpt2": Case("CAUSAL_LM", "GPT2LMHeadModel", lambda: tf.GPT2Config(**BASE, n_embd=32, n_layer=2, n_head=4)),
    "llama": Case("CAUSAL_LM", "LlamaForCausalLM", lambda: tf.LlamaConfig(**GROUPED)),
    "qwen3": Case("CAUSAL_LM", "Qwen3ForCausalLM", lambda: tf.Qwen3Config(**GROUPED)),
    "mistral": Case("CAUSAL_LM", "MistralForCausalLM", lambda: tf.MistralConfig(**GROUPED, sliding_window=8)),
    "narrow": Case("CAUSAL_LM", "MistralForCausalLM", lambda: tf.MistralConfig(**GROUPED, sliding_window=3)),
    "gemma3": Case(
        "CAUSAL_LM", "Gemma3ForCausalLM", lambda: tf.Gemma3TextConfig(**GROUPED, sliding_window=8, layer_types=LAYERS)
    ),
    "opt": Case("CAUSAL_LM", "OPTForCausalLM", lambda: tf.OPTConfig(**BASE, **ROWS, hidden_size=32, ffn_dim=48)),
    "gpt_neox": Case("CAUSAL_LM", "GPTNeoXForCausalLM", lambda: tf.GPTNeoXConfig(**WIDE)),
    "phi3": Case("CAUSAL_LM", "Phi3ForCausalLM", lambda: tf.Phi3Config(**WIDE, num_key_value_heads=2)),
    "llama-classifier": Case(
        "SEQ_CLS", "LlamaForSequenceClassification", lambda: tf.LlamaConfig(**GROUPED, num_labels=3)
    ),
    "bert": Case("FEATURE_EXTRACTION", "BertModel", lambda: tf.BertConfig(**WIDE)),
    "bert-classifier": Case("SEQ_CLS", "BertForSequenceClassification", lambda: tf.BertConfig(**WIDE, num_labels=3)),
    "bert-answers": Case("QUESTION_ANS", "BertForQuestionAnswering", lambda: tf.BertConfig(**WIDE, num_labels=2)),
    "roberta-classifier": Case(
        "SEQ_CLS",
        "RobertaForSequenceClassification",
        lambda: tf.RobertaConfig(**WIDE | {"pad_token_id": 1, "num_labels": 3}),
    ),
    "electra-tagger": Case(
        "TOKEN_CLS", "ElectraForTokenClassification", lambda: tf.ElectraConfig(**WIDE, embedding_size=16, num_labels=3)
    ),
    "t5": Case("SEQ_2_SEQ_LM", "T5ForConditionalGeneration", lambda: tf.T5Config(**T5, num_layers=2), token_dim=48),
    "t5-odd": Case("SEQ_2_SEQ_LM", "T5ForConditionalGeneration", lambda: tf.T5Config(**T5, num_layers=3), token_dim=48),
    "bart": Case(
        "SEQ_2_SEQ_LM",
        "BartForConditionalGeneration",
        lambda: tf.BartConfig(**BART, encoder_layers=4, decoder_layers=3),
    ),
}  # fmt: skip


def inputs_for(case: Case, length: int = 6, padding: int = 0) -> dict[str, Tensor]:
    """Two random texts; the second ends in `padding` padding tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 64, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        mask[1, -padding:] = 0
        ids[1, -padding:] = case.config().pad_token_id
    inputs = {"input_ids": ids, "attention_mask": mask}
    if case.seq2seq:
        inputs["decoder_input_ids"] = torch.randint(3, 64, (2, 5), generator=generator)
    return inputs


def answers(case: Case, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What the model says of real tokens: logits, or the states of a bare base."""
    with torch.no_grad():
        output = model(**inputs)
    found = [output[name] for name in ("logits", "start_logits", "end_logits", "last_hidden_state") if name in output]
    real = inputs["attention_mask"].bool()
    return [x[real] if x.shape[:2] == real.shape and not case.seq2seq else x for x in found]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference."""
    assert [x.shape for x in one] == [x.shape for x in other] != []
    return max((x - y).abs().max().item() for x, y in zip(one, other, strict=True))


def trained_by_peft(case: Case, folder: Path, **options: Any) -> Any:
    """A PEFT prefix with every trainable number moved, saved in `folder`."""
    config = peft.PrefixTuningConfig(task_type=case.task, num_virtual_tokens=P, token_dim=case.token_dim, **options)
    model = peft.get_peft_model(case.make(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    return model


def trained_here(case: Case, method: pt.PTuningV2 | None = None) -> PreTrainedModel:
    """A model under a prefix whose every number, gates and head included, was moved."""
    model = pt.attach(case.make(), method or pt.PTuningV2(**case.method))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def all_inputs(case: Case) -> list[dict[str, Tensor]]:
    """Texts shorter and longer than the sliding windows, with and without padding on the right."""
    return [inputs_for(case, length, padding) for length in (5, 20) for padding in (0, 2)]
