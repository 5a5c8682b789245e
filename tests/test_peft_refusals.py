"""What PEFT cannot hold, and checkpoints that are not what they should be: one clear line, nothing half-done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft_cases import (
    BASE,
    CASES,
    GROUPED,
    LAYERS,
    PEFT_WARNS,
    WIDE,
    P,
    answers,
    distance,
    inputs_for,
    trained_by_peft,
    trained_here,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import prefixtune as pt

pytestmark = PEFT_WARNS

SMALL_WINDOW = (
    "stays visible in sliding windows \\(of 8 tokens\\), but PEFT's leaves with them; expected window='scroll'"
)
UNFIT = {
    "missing layers": ("gpt2", {"length": P, "layers": [1]}, r"on 1 of 2 decoder layers \(none on 0\).*layers=None"),
    "lengths": ("gpt2", {"lengths": [2, P]}, r"lengths \[2, 4\].*one length in every layer; expected length=4"),
    "offset 0": ("gpt2", {"length": P, "position_offset": 0}, r"stands at 0 .*position_offset=\{'decoder': 4\}"),
    "encoder": ("bert", {"length": P}, r"stands at 0 .*position_offset=\{'encoder': 4\}"),
    "sites": ("t5", {"length": P}, r"encoder and cross attention.*sites=\['decoder'\].*\{'decoder': 4\}"),
    "no positions": ("t5", {"length": P, "sites": ["decoder"]}, r"stands at 0 .*position_offset=\{'decoder': 4\}"),
    "pinned": ("mistral", {"length": P}, SMALL_WINDOW),
}


@pytest.mark.parametrize(("name", "options", "message"), UNFIT.values(), ids=UNFIT)
def test_a_prefix_that_peft_cannot_hold_is_refused_and_nothing_is_written(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = pt.attach(CASES[name].make(), pt.PTuningV2(**options))
    with pytest.raises(pt.ConfigError, match=message) as error:
        pt.to_peft(model, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (pt.AdaptivePrefix(length=P), "gate_input='token' depends on the input"),
        (pt.ZeroInitPrefix(length=P, position_offset=P), "zero_init .* outside the text's softmax, which no key/value"),
        (pt.ZeroInitPrefix(length=P), "outside the text's softmax"),  # also where its place alone would be refused
        (pt.LinearPrefix(length=P), "linear .* outside the text's softmax"),
    ],
)
def test_attention_that_no_cache_can_hold_is_refused(method: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(pt.ConfigError, match=message):
        pt.to_peft(pt.attach(CASES["gpt2"].make(), method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


FOREIGN = {
    "no past": (
        lambda: tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(**BASE, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
        ),
        {"position_offset": P},
        "DistilBertModel takes no past_key_values",
    ),
    "no task": (
        lambda: tf.BertForMaskedLM(tf.BertConfig(**WIDE)),
        {"position_offset": P},
        "PEFT has no prefix tuning for BertForMaskedLM",
    ),
    "chunks": (
        lambda: tf.Llama4ForCausalLM(
            tf.Llama4TextConfig(
                **GROUPED | {"head_dim": 8}, num_local_experts=2, attention_chunk_size=8, intermediate_size_mlp=48
            )
        ),
        {},
        "Llama4ForCausalLM attends in chunks",
    ),
    "latents": (
        lambda: tf.DeepseekV3ForCausalLM(
            tf.DeepseekV3Config(
                **WIDE, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12,
                v_head_dim=20, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1,
                first_k_dense_replace=1, moe_intermediate_size=16,
            )
        ),
        {},
        "G=4 key/value heads of D=20 where it attends, but its config says G=4 and D=8",
    ),
    "unequal sizes": (
        lambda: tf.DeepseekV3ForCausalLM(
            tf.DeepseekV3Config(
                **WIDE, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12,
                v_head_dim=10, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1,
                first_k_dense_replace=1, moe_intermediate_size=16,
            )
        ),
        {},
        "G=4 Dk=20 Dv=10, but PEFT's checkpoint has one G and one D",
    ),
    "shared keys": (
        lambda: tf.Gemma3nForCausalLM(
            tf.Gemma3nTextConfig(
                **GROUPED | {"num_hidden_layers": 4}, sliding_window=8, layer_types=LAYERS * 2, num_kv_shared_layers=2,
                vocab_size_per_layer_input=64, hidden_size_per_layer_input=8, altup_num_inputs=2, laurel_rank=4,
                activation_sparsity_pattern=None,
            )
        ),
        {"window": "scroll"},
        "Gemma3nForCausalLM computes something else with PEFT's filled cache",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "options", "message"), FOREIGN.values(), ids=FOREIGN)
def test_a_model_on_which_a_cache_is_no_prefix_is_refused(
    build: Callable[[], PreTrainedModel], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = pt.attach(build().eval(), pt.PTuningV2(length=P, **options))
    with pytest.raises(pt.ModelError, match=message) as error:
        pt.to_peft(model, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({key: value.contiguous() for key, value in change(load_file(path)).items()}, path, {"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def make_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def move_down(folder: Path) -> None:
    (folder / "inner").mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / file).rename(folder / "inner" / file)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (lambda at: change_config(at, peft_type="LORA"), "of type 'LORA'; expected 'PREFIX_TUNING'"),
    "no kind": (lambda at: change_config(at, peft_type=None), "of type None; expected 'PREFIX_TUNING'"),
    "no length": (lambda at: change_config(at, num_virtual_tokens=None), "num_virtual_tokens is None; expected"),
    "no config": (lambda at: (at / "adapter_config.json").unlink(), "json is missing; expected a folder"),
    "a folder deeper": (move_down, "adapter_config.json is missing; did you mean .*inner"),
    "config cut off": (lambda at: truncate(at / "adapter_config.json"), "adapter_config.json is corrupt"),
    "config of no text": (lambda at: (at / "adapter_config.json").write_bytes(b"\xff\xfe\x00"), "is corrupt"),
    "config no object": (lambda at: (at / "adapter_config.json").write_text("[]"), "of type None"),
    "no tensors": (lambda at: (at / "adapter_model.safetensors").unlink(), "but no adapter_model.safetensors"),
    "pickle": (make_pickle, r"adapter_model.bin, a pickle.*save_pretrained\(directory, safe_serialization=True\)"),
    "tensors cut off": (lambda at: truncate(at / "adapter_model.safetensors"), "corrupt or truncated"),
    "empty tensors": (lambda at: (at / "adapter_model.safetensors").write_bytes(b""), "corrupt or truncated"),
    "no prompt": (lambda at: change_tensors(at, lambda t: {"x": t["prompt_embeddings"]}), "has no 'prompt_embeddings'"),
    "another shape": (
        lambda at: change_tensors(at, lambda t: t | {"prompt_embeddings": t["prompt_embeddings"][1:]}),
        r"shape \(3, 128\), but adapter_config.json describes \(4, 128\)",
    ),
    "trained embeddings": (
        lambda at: change_tensors(at, lambda t: t | {"base_model.bert.word_embeddings.weight": torch.ones(64, 32)}),
        r"word_embeddings.weight' is \(64, 32\) in the checkpoint and nothing in this model's task head",
    ),
    "half a head": (
        lambda at: change_tensors(at, lambda t: {k: v for k, v in t.items() if not k.endswith("bias")}),
        r"'classifier.bias' is nothing in the checkpoint and \(3,\) in this model's task head",
    ),
    "other labels": (
        lambda at: change_tensors(at, lambda t: t | {"base_model.classifier.weight": torch.ones(5, 32)}),
        r"'classifier.weight' is \(5, 32\) in the checkpoint and \(3, 32\).*num_labels",
    ),
    "submodules": (lambda at: change_config(at, num_transformer_submodules=2), "num_transformer_submodules=2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of BERT with a classifier, written here."""
    folder = tmp_path_factory.mktemp("sound")
    pt.to_peft(trained_here(CASES["bert-classifier"]), folder)
    return folder


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_one_clear_line_and_leaves_the_model_as_it_was(
    break_it: Callable[[Path], object], message: str, sound: Path, tmp_path: Path
) -> None:
    for file in sound.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    break_it(tmp_path)
    case = CASES["bert-classifier"]
    model, inputs = case.make(), inputs_for(case)
    before, names = answers(case, model, inputs), [name for name, _ in model.named_modules()]
    with pytest.raises(pt.CheckpointError, match=message) as error:
        pt.from_peft(model, tmp_path)
    assert "\n" not in str(error.value)
    assert [name for name, _ in model.named_modules()] == names
    assert distance(answers(case, model, inputs), before) == 0.0


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pt.CheckpointError, match="is no folder; expected one that PEFT's save_pretrained wrote"):
        pt.from_peft(CASES["bert"].make(), tmp_path / "nowhere")


def test_a_checkpoint_of_another_base_names_both_shapes(tmp_path: Path) -> None:
    trained_by_peft(CASES["gpt2"], tmp_path)
    message = (
        r"prefix for 2 layers with G=4 key/value heads of D=8, but LlamaForCausalLM has 2 decoder layers with "
        r"G=2 heads of Dk=12 Dv=12; load the base model it was trained on \(not named\)"
    )
    with pytest.raises(pt.CheckpointError, match=message):
        pt.from_peft(CASES["llama"].make(), tmp_path)


def test_another_name_for_the_same_base_is_no_error(sound: Path, tmp_path: Path) -> None:
    for file in sound.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change_config(tmp_path, base_model_name_or_path="somebody/else")
    assert pt.prefixes(pt.from_peft(CASES["bert-classifier"].make(), tmp_path, name="else")) == ["else"]


def test_a_name_is_taken_once(sound: Path) -> None:
    model = pt.from_peft(CASES["bert-classifier"].make(), sound)
    with pytest.raises(pt.ConfigError, match="'default' is already attached"):
        pt.from_peft(model, sound)
    assert pt.prefixes(model) == ["default"]


def test_there_must_be_a_prefix_to_export(tmp_path: Path) -> None:
    with pytest.raises(pt.ConfigError, match="has no prefix attached"):
        pt.to_peft(CASES["gpt2"].make(), tmp_path)
