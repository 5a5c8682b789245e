"""Baselines on the footing of a prefix, whatever the base is: 16 bits, shared layers, a pooler, no default targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from test_baselines import base, inputs, trained
from torch import Tensor
from transformers import PreTrainedModel

import prefixtune as pt
from prefixtune import baselines
from prefixtune.baselines.infix import PLACE
from prefixtune.errors import ConfigError
from prefixtune.tasks.loading import load_base
from prefixtune.training import RunConfig
from prefixtune.training.adaptation import Prefixed
from prefixtune.training.bench import read_data
from prefixtune.training.run import fit

KINDS = ["full", "ft_top", "adapter", "lora", "prompt_tuning", "infix", "linear_probe"]
BUDGET = {"adapter": {"percent": 5.0}, "lora": {"percent": 5.0}}  # a tenth of a percent of so small a base is nothing
TINY_BERT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "embedding_size": 16,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    tiny.encoder(folder / "bert", hidden_size=64)
    tiny.llama(folder / "llama")
    tiny.encoder_decoder(folder / "bart")
    return folder


def fitting(name: str) -> list[str]:
    """The baselines that a base of this kind can have: an infix needs a decoder, a linear probe a head."""
    return [kind for kind in KINDS if kind not in {"llama": ["linear_probe"], "bert": ["infix"]}.get(name, KINDS[-2:])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ("bert", "llama", "bart") for kind in fitting(name)]
)
def test_what_is_trained_is_in_full_precision_over_a_base_of_16_bits(
    folder: Path, name: str, kind: str, dtype: torch.dtype
) -> None:
    model, tokenizer = base(folder, name)
    model.to(dtype)
    baselines.find(kind)(**BUDGET.get(kind, {})).attach(model, tokenizer)
    given: dict[str, Any] = inputs(model)
    if kind == "infix":
        given[PLACE] = torch.tensor([2, 1])
    loss = model(**given).logits.float().square().mean()
    loss.backward()
    grown = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for parameter in grown.values()} == {torch.float32}
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in grown.values())
    frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert kind in ("full", "ft_top") or frozen == {dtype}, "a base that is not trained stays as it was stored"


def test_a_head_of_a_base_of_16_bits_reads_and_gives_what_it_did(folder: Path) -> None:
    narrow, tokenizer = base(folder, "bert")
    narrow.to(torch.bfloat16)
    given = inputs(narrow)
    with torch.no_grad():
        before = narrow(**given).logits
        baselines.find("linear_probe")().attach(narrow, tokenizer)
        after = narrow(**given).logits
    assert after.dtype == before.dtype == torch.bfloat16
    torch.testing.assert_close(after, before, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("kind", ["full", "lora", "linear_probe"])
def test_small_steps_over_a_base_of_16_bits_are_not_lost(folder: Path, tmp_path: Path, kind: str) -> None:
    """At a rate at which bfloat16's spacing swallows each step."""
    train = tiny.jsonl(tmp_path / "train.jsonl", tiny.first_letter(32))
    config = RunConfig(
        model=str(folder / "bert"), task="classification", method="p_tuning_v2", train=train,
        output=str(tmp_path / "out"), dtype="bfloat16", lr=1e-5, epochs=1, batch_size=8, base_dropout=False,
    )  # fmt: skip
    seen: dict[str, dict[str, Tensor]] = {}

    def keep(moment: str, model: PreTrainedModel) -> None:
        seen[moment] = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}

    what = baselines.find(kind)(**BUDGET.get(kind, {}))
    attach, save = what.attach, what.save
    what.attach = lambda model, tokenizer: (attach(model, tokenizer), keep("before", model))[0]
    what.save = lambda model, *rest: (keep("after", model), save(model, *rest))[1]
    task, data = read_data(config)
    fit(config, what, task, data)
    name = next(name for name in seen["before"] if "classifier" in name and "weight" in name)
    assert (seen["before"][name] != seen["after"][name]).double().mean() > 0.9


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", ("bert.encoder.layer.2.", "bert.pooler.", "classifier.")),
        ("albert", ("albert.encoder.albert_layer_groups.0.", "albert.pooler.", "classifier.")),  # one block for all
        ("roberta", ("roberta.encoder.layer.2.", "classifier.")),
        ("deberta-v2", ("deberta.encoder.layer.2.", "pooler.", "classifier.")),
        ("electra", ("electra.encoder.layer.2.", "classifier.")),
        ("modernbert", ("model.layers.2.", "model.final_norm.", "head.", "classifier.")),
        ("distilbert", ("distilbert.transformer.layer.2.", "pre_classifier.", "classifier.")),
    ],
)
def test_ft_top_of_an_encoder_trains_all_that_runs_after_the_top_blocks(kind: str, expected: tuple[str, ...]) -> None:
    shape = {**TINY_BERT, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4}
    model = tf.AutoModelForSequenceClassification.from_config(tf.AutoConfig.for_model(kind, **shape)).eval()
    baselines.find("ft_top")(blocks=1).attach(model, tokenizer=None)  # type: ignore[arg-type]
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith(expected)}


@pytest.mark.parametrize("kind", ["albert", "camembert", "distilbert", "modernbert"])
def test_lora_is_on_queries_and_values_where_peft_names_no_targets(kind: str) -> None:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    assert kind not in DEFAULTS, "PEFT knows it now"
    shape = {**TINY_BERT, "bos_token_id": 0, "eos_token_id": 1}
    model = tf.AutoModelForSequenceClassification.from_config(tf.AutoConfig.for_model(kind, **shape))
    baselines.find("lora")(rank=2).attach(model, tokenizer=None)  # type: ignore[arg-type]
    places = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained(model) if "lora_" in name}
    assert places in ({"query", "value"}, {"q_lin", "v_lin"}, {"Wqkv"})


@pytest.mark.parametrize("config", [tf.MBartConfig, tf.PegasusConfig], ids=lambda config: config.__name__)
def test_lora_has_targets_in_both_stacks_of_an_encoder_decoder_that_peft_does_not_name(config: Any) -> None:
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20, "max_position_embeddings": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = tf.AutoModelForSeq2SeqLM.from_config(config(**shape, **heads))
    baselines.find("lora")(rank=2).attach(model, tokenizer=None)  # type: ignore[arg-type]
    places = {name.partition(".lora_")[0] for name in trained(model)}
    attentions = ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.0.encoder_attn")
    assert places == {f"model.{where}.{kind}" for where in attentions for kind in ("q_proj", "v_proj")}


def test_lora_says_where_targets_are_named() -> None:
    model = tf.AutoModel.from_config(tf.FNetConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"no default LoRA targets are known for 'fnet'; name them in Python: Lora\("):
        baselines.find("lora")(rank=2).attach(model, tokenizer=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("adaptation", [baselines.find("full")(), Prefixed(pt.PTuningV2(length=2))])
def test_checkpointing_of_a_base_that_has_none_is_one_line(adaptation: Any, tmp_path: Path) -> None:
    tokenizer = tiny.letter_tokenizer(model_max_length=64)
    tf.AlbertModel(tf.AlbertConfig(**{**TINY_BERT, "vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "albert")
    tokenizer.save_pretrained(tmp_path / "albert")
    train = tiny.jsonl(tmp_path / "train.jsonl", tiny.first_letter(8))
    config = RunConfig(
        model=str(tmp_path / "albert"), task="classification", method="p_tuning_v2", train=train,
        output=str(tmp_path / "out"), gradient_checkpointing=True,
    )  # fmt: skip
    task, data = read_data(config)
    with pytest.raises(ConfigError, match="gradient_checkpointing: AlbertFor.* does not support it; leave it out"):
        fit(config, adaptation, task, data)
    assert not (tmp_path / "out").exists()


def test_a_base_that_writes_no_texts_is_loaded_as_its_body(folder: Path, tmp_path: Path) -> None:
    body, tokenizer = load_base(str(folder / "bert"), None)
    assert type(body) is tf.BertModel
    tf.BertForMaskedLM(body.config).save_pretrained(tmp_path / "mlm")  # without a pooler
    tokenizer.save_pretrained(tmp_path / "mlm")
    assert type(load_base(str(tmp_path / "mlm"), None)[0]) is tf.BertModel
    assert type(load_base(str(folder / "llama"), None)[0]) is tf.LlamaForCausalLM
