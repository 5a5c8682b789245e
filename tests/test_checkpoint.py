"""Prefixes on disk: whole or not at all, bit for bit, and never onto another base model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from test_contract import P, attached, close, leave_start, logits, make_method, tokenizer, trainable
from torch import Tensor

import prefixtune as pt
from prefixtune import checkpoint

GPT2, LLAMA, BERT = zoo.BY_NAME["gpt2"], zoo.BY_NAME["llama"], zoo.BY_NAME["bert"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A trained Prefix-Tuning prefix of the tiny GPT-2."""
    pt.save(attached(GPT2, "prefix_tuning"), tmp_path / "prefix")
    return tmp_path / "prefix"


# What the files hold


def test_the_file_holds_keys_and_values_by_site_and_layer_and_no_mlp(saved: Path) -> None:
    tensors = load_file(saved / "prefix.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        f"decoder.{layer}.{kind}": (4, P, 8) for layer in (0, 1) for kind in ("key", "value")
    }
    header = json.loads((saved / "prefix_config.json").read_text())
    assert header["method"] == "prefix_tuning"
    assert header["options"]["hidden"] == 8
    assert header["stored_parameters"] == 2 * 2 * P * 32


def test_gates_stand_in_the_file_under_their_names(tmp_path: Path) -> None:
    pt.save(attached(GPT2, "adaptive-token"), tmp_path)
    names = set(load_file(tmp_path / "prefix.safetensors"))
    kinds = ("key", "value", "layer_gate", "token_gate.weight")
    assert names == {f"decoder.{layer}.{kind}" for layer in (0, 1) for kind in kinds}


def test_metadata_comes_back_as_it_was(saved: Path) -> None:
    model = pt.load(GPT2.make(), saved)
    pt.save(model, saved, metadata={"task": "text2text", "labels": ["a", "b"]})
    assert checkpoint.read_config(saved)["metadata"] == {"task": "text2text", "labels": ["a", "b"]}
    pt.save(pt.load(GPT2.make(), saved), saved)
    assert checkpoint.read_config(saved)["metadata"] == {"task": "text2text", "labels": ["a", "b"]}


def test_a_head_travels_with_its_prefix_and_not_with_the_base(tmp_path: Path) -> None:
    config = tf.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    torch.manual_seed(0)
    base = tf.BertForTokenClassification(config).eval()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = pt.attach(base, pt.PTuningV2(length=P))
    leave_start(model)
    inputs = zoo.inputs_for(BERT)
    trained = logits(model, inputs)
    pt.save(model, tmp_path)
    assert {"head.classifier.weight", "head.classifier.bias"} <= set(load_file(tmp_path / "prefix.safetensors"))
    fresh = tf.BertForTokenClassification(config).eval()
    fresh.load_state_dict(weights)
    torch.nn.init.normal_(fresh.classifier.weight)  # another run's new head
    assert torch.equal(logits(pt.load(fresh, tmp_path), inputs), trained)
    wide = tf.BertForTokenClassification(tf.BertConfig(**(config.to_dict() | {"num_labels": 5}))).eval()
    wide.bert.load_state_dict(base.bert.state_dict(), strict=False)
    pt.detach(model)
    wide.bert.load_state_dict(base.bert.state_dict())
    with pytest.raises(pt.CheckpointError, match=r"head 'classifier.*num_labels"):
        pt.load(wide, tmp_path)
    assert pt.prefixes(wide) == []


# Names and trainability


def test_a_prefix_comes_back_under_its_own_name_or_another(tmp_path: Path) -> None:
    model = pt.attach(GPT2.make(), pt.PTuningV2(length=P), name="e2e")
    pt.save(model, tmp_path, name="e2e")
    fresh = pt.load(GPT2.make(), tmp_path)
    pt.load(fresh, tmp_path, name="again")
    assert pt.prefixes(fresh) == ["e2e", "again"]
    with pytest.raises(pt.ConfigError, match="'e2e' is already attached"):
        pt.load(fresh, tmp_path)
    with pytest.raises(pt.ConfigError, match="cannot name a prefix"):
        pt.load(fresh, tmp_path, name="../up")


@pytest.mark.parametrize("variant", ["prefix_tuning", "adaptive-token", "cartridge", "zero_init", "content"])
def test_a_prefix_loaded_as_trainable_trains_on(variant: str, tmp_path: Path) -> None:
    pt.save(attached(GPT2, variant), tmp_path)
    model = pt.load(GPT2.make(), tmp_path, trainable=True)
    names = trainable(model)
    assert names
    model(**zoo.inputs_for(GPT2)).logits.pow(2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in names.values())


def test_a_cartridges_frozen_tokens_stay_when_it_is_loaded_to_be_trained_on(tmp_path: Path) -> None:
    method = pt.Cartridge(text="w5 w9 w11 w20", frozen_tokens=2)
    written = pt.attach(GPT2.make(), method, tokenizer=tokenizer())
    pt.save(written, tmp_path)
    model = pt.load(GPT2.make(), tmp_path, trainable=True)
    prefix, before = (m.prefixtune.get("default").fold() for m in (model, written))
    assert all(torch.equal(prefix[name], tensor) for name, tensor in before.items())
    leave_start(model)
    for name, tensor in model.prefixtune.get("default").fold().items():
        assert torch.equal(tensor[:, :2], before[name][:, :2])
        assert (tensor[:, 2:] != before[name][:, 2:]).any(-1).all()


# Another base


def test_another_base_is_refused_with_both_named_and_left_bare(saved: Path) -> None:
    model = LLAMA.make()
    with pytest.raises(pt.CheckpointError, match=r"is a prefix for gpt2 .* but this model is llama"):
        pt.load(model, saved)
    assert pt.prefixes(model) == []


def test_weights_that_are_drawn_at_every_load_are_told_of(tmp_path: Path) -> None:
    config = zoo.BY_NAME["bert"].make().config
    tf.BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    kind = tf.AutoModelForSequenceClassification  # its pooler is not in the files

    def fresh() -> tf.PreTrainedModel:
        return kind.from_pretrained(tmp_path / "base")

    pt.save(pt.attach(fresh(), pt.PTuningV2(length=P)), tmp_path / "prefix")
    with pytest.raises(pt.CheckpointError, match="drawn anew at every load; save the whole base once"):
        pt.load(fresh(), tmp_path / "prefix")


def test_wrapped_weights_are_told_of_as_another_base(saved: Path) -> None:
    model = GPT2.make()
    mlp = model.transformer.h[0].mlp
    mlp.c_fc = torch.nn.Sequential(mlp.c_fc)  # the same weights by another name
    mlp.c_fc.register_parameter("lora", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(pt.CheckpointError, match=r"wrapped \(LoRA\) or changed since are another base"):
        pt.load(model, saved)


def test_the_same_weights_in_another_class_are_told_of(tmp_path: Path) -> None:
    llama = zoo.BY_NAME["llama"].make()
    pt.save(pt.attach(llama, pt.PTuningV2(length=P)), tmp_path / "prefix")
    pt.detach(llama)
    with pytest.raises(pt.CheckpointError, match="in the class that it was trained in: the weights are the same"):
        pt.load(llama.model, tmp_path / "prefix")


def test_the_same_shape_with_other_weights_is_another_base(saved: Path) -> None:
    model = GPT2.make()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    with pytest.raises(pt.CheckpointError, match=r"weights [0-9a-f]{8}.*weights [0-9a-f]{8}"):
        pt.load(model, saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_base_in_half_precision_is_the_same_base(saved: Path, dtype: torch.dtype) -> None:
    model = pt.load(GPT2.make().to(dtype), saved)
    assert pt.prefixes(model) == ["default"]


def test_a_prefix_of_a_half_precision_base_goes_back_onto_full_precision_only_if_the_numbers_agree(
    tmp_path: Path,
) -> None:
    half = pt.attach(GPT2.make().to(torch.bfloat16), pt.PTuningV2(length=P))
    pt.save(half, tmp_path)
    pt.load(GPT2.make(), tmp_path)
    other = GPT2.make()
    with torch.no_grad():
        other.transformer.h[0].attn.c_attn.weight.add_(0.5)
    with pytest.raises(pt.CheckpointError, match="is a prefix for"):
        pt.load(other, tmp_path)


# Damage


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_tensor_file_is_refused_by_name(saved: Path, keep: int) -> None:
    path = saved / "prefix.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(pt.CheckpointError, match=r"prefix.safetensors is (corrupt|not the file)"):
        pt.load(GPT2.make(), saved)


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    path = saved / "prefix.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(pt.CheckpointError, match="sha256 differs"):
        pt.load(GPT2.make(), saved)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is corrupt"),
        ("{", "is corrupt"),
        ("[]", "lacks format"),
        ('{"format": 1}', "lacks method"),
    ],
)
def test_a_damaged_header_is_refused_by_name(saved: Path, text: str, words: str) -> None:
    (saved / "prefix_config.json").write_text(text)
    with pytest.raises(pt.CheckpointError, match=rf"prefix_config.json {words}"):
        pt.load(GPT2.make(), saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "has format 99 but this prefixtune"),
        ({"method": "prefix_tunning"}, "did you mean 'prefix_tuning'"),
        ({"options": {"length": 4, "wings": 2}}, "wings"),
        ({"slots": {"decoder.9": 4}}, "layers that the model lacks: decoder.9"),
        ({"slots": [1]}, r"slots is '\[1\]', expected a dict"),
        ({"slots": {"decoder.0": "7"}}, "the length of decoder.0 is '7', expected at least 1"),
        ({"options": None}, "options is 'None', expected a dict"),
        ({"base_model": "gpt2"}, "base_model is malformed .expected a mapping with name, model_type, shape"),
        ({"base_model": {"name": "a", "model_type": "gpt2", "shape": "b", "fingerprints": None}}, "base_model is malf"),
        ({"slots": {"decoder.0": 7}}, r"decoder.0.key should have shape \(4, 7, 8\)"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(saved: Path, change: dict[str, Any], words: str) -> None:
    path = saved / "prefix_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(pt.CheckpointError, match=words):
        pt.load(GPT2.make(), saved)


def test_what_a_later_version_adds_of_the_base_is_passed_over(saved: Path) -> None:
    path = saved / "prefix_config.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"base_model": header["base_model"] | {"revision": "main"}}))
    assert pt.prefixes(pt.load(GPT2.make(), saved))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rms_norm_eps": 0.1}, "rms_norm_eps 1e-06, now 0.1"),
        ({"hidden_act": "relu"}, "hidden_act silu, now relu"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta 10000.0, now 500000.0"),
    ],
)
def test_the_same_weights_under_other_arithmetic_are_another_base(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    llama = zoo.BY_NAME["llama"]
    model, other = attached(llama, "p_tuning_v2"), llama.make()
    pt.save(model, tmp_path / "saved")
    changed = type(other)(type(other.config).from_dict(other.config.to_dict() | change))
    changed.load_state_dict(other.state_dict())
    with pytest.raises(pt.CheckpointError, match=words):
        pt.load(changed, tmp_path / "saved")


def test_what_does_not_compute_may_differ_and_an_older_header_names_no_arithmetic(saved: Path) -> None:
    model = GPT2.make()
    changes = {"attn_pdrop": 0.3, "use_cache": False, "summary_activation": "tanh", "architectures": ["X"]}
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert pt.prefixes(pt.load(model, saved))
    path = saved / "prefix_config.json"
    header = json.loads(path.read_text())
    assert header["base_model"].pop("settings")["activation_function"] == "gelu_new"
    path.write_text(json.dumps(header))
    assert pt.prefixes(pt.load(GPT2.make(), saved))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    model = attached(GPT2, "p_tuning_v2")
    (tmp_path / "notes").write_text("mine")
    for folder in (tmp_path / "notes", tmp_path / "notes" / "deeper"):
        for save in (pt.save, pt.to_peft):
            with pytest.raises(pt.CheckpointError, match="notes.* is a file; expected a folder to write to"):
                save(model, folder)
    assert (tmp_path / "notes").read_text() == "mine"


def test_missing_folders_and_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(pt.CheckpointError, match="neither a folder nor a hub id"):
        pt.load(GPT2.make(), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(pt.CheckpointError, match="prefix_config.json is missing"):
        pt.load(GPT2.make(), tmp_path / "empty")
    (saved / "prefix.safetensors").unlink()
    with pytest.raises(pt.CheckpointError, match="no prefix.safetensors"):
        pt.load(GPT2.make(), saved)


def test_a_hub_id_that_cannot_be_had_is_named() -> None:
    with pytest.raises(pt.CheckpointError, match="'nobody/nothing' is not a local folder"):
        pt.load(GPT2.make(), "nobody/nothing")


def test_a_save_that_dies_half_way_leaves_the_old_prefix_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def disk_full(*args: object) -> None:
        raise OSError("no space left on device")

    model = attached(GPT2, "p_tuning_v2")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space"):
        pt.save(model, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# transformers' own saving, and its Trainer


def test_save_pretrained_writes_the_prefix_and_not_the_base(tmp_path: Path) -> None:
    model = attached(GPT2, "prefix_tuning")
    inputs = zoo.inputs_for(GPT2)
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"prefix.safetensors", "prefix_config.json"}
    assert torch.equal(logits(pt.load(GPT2.make(), tmp_path / "one"), inputs), expected)
    pt.attach(model, make_method("p_tuning_v2"), name="other")
    model.save_pretrained(tmp_path / "two")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"default", "other"}
    pt.detach(model)
    model.save_pretrained(tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors").exists()


def rows() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    texts = torch.randint(3, zoo.VOCABULARY, (16, 6), generator=generator)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in texts]


def trainer(model: tf.PreTrainedModel, folder: Path, **options: Any) -> tf.Trainer:
    """transformers' own Trainer, as anyone would make it."""
    given: dict[str, Any] = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "save_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
    }
    arguments = tf.TrainingArguments(output_dir=str(folder), **(given | options))
    return tf.Trainer(model=model, args=arguments, train_dataset=rows(), eval_dataset=rows()[:4])  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["prefix_tuning", "adaptive-token", "cartridge"])
def test_an_unmodified_trainer_resumes_to_the_same_numbers(variant: str, tmp_path: Path) -> None:
    def fresh() -> tf.PreTrainedModel:
        torch.manual_seed(1)
        return pt.attach(GPT2.make(), make_method(variant, dropout=0.1), tokenizer=tokenizer())

    whole = fresh()
    trainer(whole, tmp_path / "run").train()
    resumed = fresh()
    leave_start(resumed)  # the checkpoint must bring everything
    trainer(resumed, tmp_path / "run").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    for name, parameter in trainable(whole).items():
        assert torch.equal(parameter, trainable(resumed)[name]), name
    inputs = zoo.inputs_for(GPT2)
    assert torch.equal(logits(whole.eval(), inputs), logits(resumed.eval(), inputs))


def test_an_unmodified_trainer_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    model = pt.attach(GPT2.make(), pt.PTuningV2(length=P))
    # Training lowers the loss, so when the highest counts as best, the best epoch is an early one.
    best_is_highest = {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    run = trainer(model, tmp_path, eval_strategy="epoch", load_best_model_at_end=True, **best_is_highest)
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = max(losses, key=losses.__getitem__)
    assert best != max(losses), "the last epoch counts as the best: this shows nothing"
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-6)
    loaded = pt.load(GPT2.make(), tmp_path / f"checkpoint-{best}")
    close(logits(model.eval(), zoo.inputs_for(GPT2)), logits(loaded, zoo.inputs_for(GPT2)))


# What a tool that rewrites both files may leave


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved.pop("encoder.0.layer_gate"), "not the tensors of .adaptive. .*encoder.0.layer_gate"),
        (
            lambda saved: saved.update({"encoder.1.token_gate.weight": torch.tensor(2.0)}),
            r"encoder.1.token_gate.weight should be \(32, 4\), got \(\)",
        ),
        (lambda saved: saved.update({"encoder.0.more": torch.ones(2)}), r"0.more should be nothing, got \(2,\)"),
        (lambda saved: saved["encoder.1.key"].fill_(torch.nan), "encoder.1.key has NaN or infinity"),
        (lambda saved: [saved.pop(key) for key in list(saved) if "head." in key], "the task head .* is nothing in"),
    ],
)
def test_a_file_whose_tensors_are_amiss_is_refused_and_the_model_left_bare(
    change: Callable[[dict[str, Tensor]], Any], words: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = tf.BertForTokenClassification(BERT.make().config)
    pt.save(pt.attach(base, pt.AdaptivePrefix(length=P)), tmp_path)
    pt.detach(base)
    tensors = load_file(tmp_path / "prefix.safetensors")
    change(tensors)
    data = save_tensors(tensors)
    (tmp_path / "prefix.safetensors").write_bytes(data)
    header = json.loads((tmp_path / "prefix_config.json").read_text())
    (tmp_path / "prefix_config.json").write_text(json.dumps({**header, "sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(pt.CheckpointError, match=words):
        pt.load(base, tmp_path)
    assert "prefixtune" not in dict(base.named_children())
