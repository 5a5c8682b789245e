"""What attach, using and the options of methods promise beyond the contract, and what they refuse."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from test_contract import (
    JOINT,
    P,
    attached,
    close,
    every,
    formula,
    leave_start,
    logits,
    make_method,
    tokenizer,
)
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

import prefixtune as pt
from prefixtune.attention import AttentionCall
from prefixtune.prefix import Slot

GPT2, LLAMA, MISTRAL = zoo.BY_NAME["gpt2"], zoo.BY_NAME["llama"], zoo.BY_NAME["mistral"]
BERT, BART, T5 = zoo.BY_NAME["bert"], zoo.BY_NAME["bart"], zoo.BY_NAME["t5"]


def calls_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[tuple[Slot, AttentionCall]]:
    """Every attention under the prefix in one forward."""
    seen: list[tuple[Slot, AttentionCall]] = []
    with model.prefixtune.watched(lambda prefix, slot, call: seen.append((slot, call))), torch.no_grad():
        model(**inputs)
    return seen


# Models that never call the interface


@pytest.mark.parametrize(
    "config",
    [
        tf.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
        tf.GPTJConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        tf.MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4),
        tf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
        tf.CodeGenConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, n_ctx=64),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_never_calls_the_interface_is_refused_by_name_and_left_as_it_was(config: Any) -> None:
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    ids = {"input_ids": torch.tensor([[3, 4, 5]])}
    before = logits(model, ids)
    with pytest.raises(pt.ModelError, match=rf"{type(model).__name__} never calls .*architectures"):
        pt.attach(model, pt.PTuningV2(length=P))
    assert torch.equal(logits(model, ids), before)
    assert pt.prefixes(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("first", ["whole", "base"])
def test_a_second_model_over_the_layers_of_an_attached_one_is_refused_and_changes_nothing(first: str) -> None:
    whole = zoo.BY_NAME["bert"].make()
    model, other = (whole, whole.base_model) if first == "whole" else (whole.base_model, whole)
    pt.attach(model, pt.PTuningV2(length=2))
    inputs = zoo.inputs_for(BERT)
    with torch.no_grad():
        before = model(**inputs)[0]
        with pytest.raises(pt.ModelError, match="shares layers with another model that has a prefix attached"):
            pt.attach(other, pt.PTuningV2(length=2))
        assert torch.equal(model(**inputs)[0], before)
    pt.detach(model)
    pt.attach(other, pt.PTuningV2(length=2))


def test_a_wrapper_is_refused_by_name() -> None:
    with pytest.raises(pt.ModelError, match="Linear is no transformers PreTrainedModel"):
        pt.attach(torch.nn.Linear(2, 2), pt.PTuningV2())  # type: ignore[type-var]


# Options that do not fit


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pt.PTuningV2(length=0), "length=0.*length >= 1"),
        (lambda: pt.PTuningV2(dropout=1.0), "dropout=1.0"),
        (lambda: pt.PTuningV2(window="pined"), "did you mean 'pinned'"),
        (lambda: pt.PTuningV2(sites=["decodr"]), "did you mean 'decoder'"),
        (lambda: pt.PTuningV2(lengths={"decodr": [3, 5]}), "lengths: 'decodr'.*did you mean 'decoder'"),
        (lambda: pt.PTuningV2(position_offset={"decodr": 4}), "position_offset: 'decodr'.*did you mean 'decoder'"),
        (lambda: pt.PTuningV2(position_offset=-3), "position_offset=-3: no token stands before position 0"),
        (lambda: pt.PTuningV2(position_offset={"decoder": -1}), "position_offset=-1"),
        (lambda: pt.AdaptivePrefix(gate_input="tokens"), "did you mean 'token'"),
        (lambda: pt.PrefixTuning(hidden=0), "hidden=0"),
        (lambda: pt.Cartridge(text=" "), "Cartridge needs a text"),
        (lambda: pt.ZeroInitPrefix(init="zeros"), "can never train"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(make: Any, words: str) -> None:
    with pytest.raises(pt.ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (pt.PTuningV2(lengths=[3]), "lengths has 1 entries but decoder has 2 layers"),
        (pt.PTuningV2(lengths=[3, 2, 1]), "lengths has 3 entries"),
        (pt.PTuningV2(lengths=[0, 0]), "no layer gets a prefix"),
        (pt.PTuningV2(lengths={"encoder": [3, 5]}), "lengths names 'encoder', which gets no prefix; .* decoder"),
        (pt.PTuningV2(lengths=[3, -1]), "cannot be negative"),
        (pt.PTuningV2(layers=[2]), "layers: 2 is not a layer of decoder; expected 0 to 1"),
        (pt.PTuningV2(sites=["cross"]), "has no 'cross' attention; it has: decoder"),
        (pt.PTuningV2(length=128), "length 128 does not fit .* 128 positions"),
        (pt.PTuningV2(length=None), "length is None and there is no text"),
        (pt.PTuningV2(init="txt:a"), "init='txt:a' is unknown"),
        (pt.PTuningV2(init="text: "), "has no words"),
        (pt.PTuningV2(init="text:w5"), "needs a tokenizer"),
        (pt.AdaptivePrefix(gate_input="mean"), "leak the future"),
    ],
)
def test_a_method_that_does_not_fit_the_model_is_refused_and_the_model_left_as_it_was(method: Any, words: str) -> None:
    model = GPT2.make()
    before = logits(model, zoo.inputs_for(GPT2))
    with pytest.raises(pt.ConfigError, match=words):
        pt.attach(model, method)
    assert pt.prefixes(model) == []
    assert torch.equal(logits(model, zoo.inputs_for(GPT2)), before)


def test_a_class_instead_of_a_method_is_refused() -> None:
    with pytest.raises(pt.ConfigError, match="expected a method"):
        pt.attach(GPT2.make(), pt.PTuningV2)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".", "a.b", "a b", "x" * 200])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(pt.ConfigError, match="cannot name a prefix"):
        pt.attach(GPT2.make(), pt.PTuningV2(length=P), name=name)


def test_a_text_longer_than_the_learned_positions_is_refused_by_number() -> None:
    model = pt.attach(GPT2.make(), pt.PTuningV2(length=100))
    with pytest.raises(pt.ConfigError, match="reach position 129, but GPT2Model has 128 positions"):
        model(input_ids=torch.full((1, 30), 5))


# Names and rows


def test_a_taken_name_and_an_unknown_name_are_refused_with_the_near_miss() -> None:
    model = pt.attach(GPT2.make(), pt.PTuningV2(length=P), name="webnlg")
    with pytest.raises(pt.ConfigError, match="'webnlg' is already attached"):
        pt.attach(model, pt.PTuningV2(length=P), name="webnlg")
    with pytest.raises(pt.ConfigError, match="did you mean 'webnlg'"):
        with pt.using(model, "webnl"):
            pass
    with pytest.raises(pt.ConfigError, match="'other'"):
        pt.detach(model, "other")
    assert pt.prefixes(model) == ["webnlg"]


def test_rows_that_do_not_divide_the_batch_are_refused_with_both_counts() -> None:
    model = attached(GPT2, "p_tuning_v2")
    with pt.using(model, ["default", None]), pytest.raises(pt.ConfigError, match="names 2 rows but the batch has 3"):
        logits(model, zoo.inputs_for(GPT2, rows=3))


def test_nothing_attached_is_said_so() -> None:
    model = GPT2.make()
    for call in (lambda: pt.detach(model), lambda: pt.save(model, "nowhere"), lambda: pt.gates(model)):
        with pytest.raises(pt.ConfigError, match="has no prefix attached"):
            call()


def test_two_threads_cannot_choose_at_once() -> None:
    model = attached(GPT2, "p_tuning_v2")
    errors: list[Exception] = []

    def choose() -> None:
        try:
            with pt.using(model, None):
                pass
        except pt.ConfigError as error:
            errors.append(error)

    with pt.using(model, "default"):
        thread = threading.Thread(target=choose)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "another thread" in str(errors[0])


def test_detaching_one_of_two_leaves_the_other_and_names_keep_their_order() -> None:
    model = attached(LLAMA, "p_tuning_v2")
    inputs = zoo.inputs_for(LLAMA)
    alone = logits(model, inputs)
    pt.attach(model, pt.PTuningV2(length=2), name="second")
    assert pt.prefixes(model) == ["default", "second"]
    assert not torch.equal(logits(model, inputs), alone), "the newest prefix is the one in use"
    pt.detach(model, "second")
    assert torch.equal(logits(model, inputs), alone)


def test_another_model_with_the_same_config_object_is_left_alone_and_takes_nothing_away() -> None:
    config = tf.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    one, two = tf.LlamaForCausalLM(config).eval(), tf.LlamaForCausalLM(config).eval()
    inputs = zoo.inputs_for(LLAMA)
    bare = logits(two, inputs)
    pt.attach(one, pt.PTuningV2(length=P))
    assert torch.equal(logits(two, inputs), bare)
    pt.attach(two, pt.PTuningV2(length=P))
    under = logits(two, inputs)
    pt.detach(one)
    assert torch.equal(logits(two, inputs), under)
    pt.detach(two)
    assert torch.equal(logits(two, inputs), bare)


# Sites, layers, lengths


def test_a_layer_without_a_prefix_is_a_layer_with_length_zero() -> None:
    chosen, zeroed = LLAMA.make(), LLAMA.make()
    for model, options in ((chosen, {"layers": [1]}), (zeroed, {"lengths": [0, P]})):
        torch.manual_seed(1)
        pt.attach(model, pt.PTuningV2(length=P, **options))
    assert torch.equal(logits(chosen, zoo.inputs_for(LLAMA)), logits(zeroed, zoo.inputs_for(LLAMA)))
    assert set(chosen.prefixtune.get("default").slots) == {"decoder.1"}


def test_lengths_differ_from_layer_to_layer_as_in_a_cache() -> None:
    model = GPT2.make()
    pt.attach(model, pt.PTuningV2(lengths=[2, 5]))
    sizes = [call.query.shape for _, call in calls_of(model, zoo.inputs_for(GPT2))]
    prefix = model.prefixtune.get("default")
    for slot, call in calls_of(model, zoo.inputs_for(GPT2)):
        key, value = prefix.keys_values(slot)
        gate = torch.ones(2, 6, slot.length)
        close(prefix.attend(call, slot)[0], formula(call, key, value, gate))
    assert len(sizes) == 2
    assert [slot.length for slot in prefix.slots.values()] == [2, 5]


def test_sites_of_unequal_depth_take_lengths_by_site() -> None:
    model = T5.make()
    with pytest.raises(pt.ConfigError, match="decoder has 2 layers"):
        pt.attach(model, pt.PTuningV2(lengths=[1, 2, 3]))
    pt.attach(model, pt.PTuningV2(lengths={"encoder": [1, 2, 3], "decoder": [2, 2], "cross": [0, 4]}))
    lengths = {name: slot.length for name, slot in model.prefixtune.get("default").slots.items()}
    assert lengths == {
        "encoder.0": 1, "encoder.1": 2, "encoder.2": 3, "decoder.0": 2, "decoder.1": 2, "cross.1": 4
    }  # fmt: skip


# Initialisation


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2", "adaptive"])
def test_a_zero_start_is_zero_keys_and_values(method: str) -> None:
    model = pt.attach(BART.make(), make_method(method, init="zeros"))
    prefix = model.prefixtune.get("default")
    for slot in prefix.slots.values():
        key, value = prefix.keys_values(slot)
        assert key.abs().max() == 0
        assert value.abs().max() == 0


def test_a_text_shorter_than_the_prefix_is_read_again_and_without_a_length_gives_it() -> None:
    model = pt.attach(LLAMA.make(), pt.PTuningV2(length=5, init="text:w5 w9"), tokenizer=tokenizer())
    pt.attach(model, pt.PTuningV2(length=5, init="text:w5 w9 w5 w9 w5"), name="spelled", tokenizer=tokenizer())
    pt.attach(model, pt.PTuningV2(length=None, init="text:w5 w9 w11"), name="free", tokenizer=tokenizer())
    bank = model.prefixtune
    for name, slot in bank.get("default").slots.items():
        ours, theirs = bank.get("default").keys_values(slot), bank.get("spelled").keys_values(slot)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        assert bank.get("free").slots[name].length == 3


def test_prefix_dropout_acts_in_training_alone() -> None:
    model = pt.attach(LLAMA.make(), pt.PTuningV2(length=P, dropout=0.5))
    inputs = zoo.inputs_for(LLAMA)
    assert torch.equal(logits(model, inputs), logits(model, inputs))
    model.train()
    assert not torch.equal(logits(model, inputs), logits(model, inputs))


def test_frozen_tokens_of_a_cartridge_stay_and_the_rest_trains() -> None:
    model = pt.attach(LLAMA.make(), pt.Cartridge(text="w5 w9 w11 w20", frozen_tokens=2), tokenizer=tokenizer())
    prefix = model.prefixtune.get("default")
    slot = prefix.slots["decoder.0"]
    before = prefix.keys_values(slot)[0].detach().clone()
    leave_start(model)
    after = prefix.keys_values(slot)[0]
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.equal(after[:, 2:], before[:, 2:])
    with pytest.raises(pt.ConfigError, match="leaves nothing to train"):
        pt.attach(model, pt.Cartridge(text="w5", frozen_tokens=1), name="short", tokenizer=tokenizer())


# Parameters


def test_prefix_tuning_stores_what_the_paper_says_and_drops_the_mlp() -> None:
    """GPT-2 medium has 24 layers of width 1024: P = 10 is 491,520 numbers (Li & Liang 2021)."""
    model = GPT2.make()
    pt.attach(model, pt.PrefixTuning(length=10, hidden=8))
    prefix = model.prefixtune.get("default")
    assert prefix.stored_parameters() == 10 * 2 * 2 * 32
    assert 10 * 24 * 2 * 1024 == 491_520
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 10 * 32 + (32 * 8 + 8) + 2 * (8 * 64 + 64)


def test_apt_trains_half_as_much_again_as_p_tuning_v2() -> None:
    """2Pd + Pd for each layer, and one lambda (Zhang et al. 2023)."""
    counts = []
    for method in (pt.PTuningV2(length=P), pt.AdaptivePrefix(length=P)):
        model = pt.attach(BERT.make(), method)
        counts.append(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    assert counts[0] == 2 * 2 * P * 32
    assert counts[1] == counts[0] * 3 // 2 + 2


# Half precision and training mode


def test_a_half_precision_model_takes_a_full_precision_prefix() -> None:
    model = LLAMA.make().to(torch.bfloat16)
    pt.attach(model, pt.AdaptivePrefix(length=P))
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    out = model(**zoo.inputs_for(LLAMA)).logits
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()


def test_attach_keeps_the_mode_and_the_random_state() -> None:
    model = BERT.make().train()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    pt.attach(model, pt.PTuningV2(length=P, init="zeros"))
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.rand(1), expected)


def test_a_fresh_prefix_is_in_the_mode_of_its_model() -> None:
    for training in (False, True):
        model = pt.attach(BERT.make().train(training), pt.PTuningV2(length=P))
        assert {module.training for module in model.prefixtune.modules()} == {training}


def test_a_sequence_classifier_that_reads_the_end_of_text_is_attached_too() -> None:
    config = tf.BartConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, num_labels=3,
    )  # fmt: skip
    model = pt.attach(tf.BartForSequenceClassification(config).eval(), pt.PTuningV2(length=P))
    ids = torch.tensor([[5, 6, config.eos_token_id]])
    assert logits(model, {"input_ids": ids}).shape == (1, 3)


@pytest.mark.parametrize("kind", ["tagging", "classification"])
def test_every_prefix_reads_out_through_its_own_head(kind: str) -> None:
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    make = tf.BertForTokenClassification if kind == "tagging" else tf.BertForSequenceClassification
    model = make(config).eval()
    inputs = zoo.inputs_for(BERT, rows=3)
    bare = logits(model, inputs)
    for name in ("one", "two"):
        pt.attach(model, pt.PTuningV2(length=P), name=name)
        leave_start(model)
    names = ["two", None, "one"]
    with pt.using(model, names):
        mixed = logits(model, inputs)
    for row, name in enumerate(names):
        with pt.using(model, name):
            close(mixed[row], logits(model, inputs)[row])
    close(mixed[1], bare[1])
    heads = model.prefixtune.heads_of("one")
    states = torch.randn(2, 32)
    assert not torch.equal(heads["classifier"](states), model.prefixtune.heads_of("two")["classifier"](states))


def test_a_model_that_needs_more_than_one_input_is_refused_by_name() -> None:
    text = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "eos_token_id": 2}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
    model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision)).eval()
    with pytest.raises(pt.ModelError, match=r"CLIPModel does not run on the tiny input.*text model"):
        pt.attach(model, pt.PTuningV2(length=P))
    assert pt.prefixes(model) == []


def test_rows_that_a_model_cuts_into_windows_take_one_prefix_alone() -> None:
    config = tf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    torch.manual_seed(0)
    model = pt.attach(tf.SwinModel(config).eval(), pt.PTuningV2(length=P))
    images = {"pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.no_grad():
        whole, alone = model(**images)[0], model(pixel_values=images["pixel_values"][1:])[0]
    close(whole[1:], alone)
    with pt.using(model, ["default", None]), pytest.raises(pt.ConfigError, match="cuts 2 rows into 8 pieces"):
        model(**images)


def test_layers_that_are_no_attention_are_passed_over_and_the_rest_is_reached() -> None:
    config = tf.Lfm2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"],
    )  # fmt: skip
    model = pt.attach(tf.Lfm2ForCausalLM(config).eval(), pt.PTuningV2(length=P))
    assert [layer.module for layer in model.prefixtune.geometry.layers] == ["model.layers.1.self_attn"]


def test_a_pipeline_takes_an_attached_model_as_it_is() -> None:
    model = attached(LLAMA, "adaptive-token")
    pipeline = tf.pipeline("text-generation", model=model, tokenizer=tokenizer(), device="cpu")
    model.generation_config.pad_token_id = zoo.PAD
    answer = pipeline("w5 w9 w11", max_new_tokens=4, do_sample=False, return_tensors=True)
    ids = tokenizer()("w5 w9 w11", return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert answer[0]["generated_token_ids"] == expected[0].tolist()


def test_a_decoders_starting_text_begins_as_its_tokenizer_begins_one_and_an_encoders_does_not() -> None:
    from tokenizers.processors import TemplateProcessing

    words = tokenizer()
    words.eos_token = "w2"
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="w1 $A w2", special_tokens=[("w1", 1), ("w2", 2)]
    )
    assert words("w5 w9").input_ids == [1, 5, 9, 2]
    for architecture, length in ((LLAMA, 3), (BERT, 2)):
        model = pt.attach(architecture.make(), pt.PTuningV2(length=None, init="text:w5 w9"), tokenizer=words)
        assert {slot.length for slot in model.prefixtune.get("default").slots.values()} == {length}


def test_the_last_model_that_is_detached_takes_the_registered_names_along() -> None:
    script = """
import test_contract as t, zoo, prefixtune as pt
before = t.registered_names()
one, two = zoo.BY_NAME["gpt2"].make(), zoo.BY_NAME["bert"].make()
for model in (one, two):
    pt.attach(model, pt.PTuningV2(length=2))
assert t.registered_names() - before == {"prefixtune_sdpa", "prefixtune_eager"}
pt.detach(one)
assert t.registered_names() != before
pt.detach(two)
assert t.registered_names() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


@every([LLAMA, BART], ["p_tuning_v2"])
def test_a_deep_copy_is_a_model_of_its_own(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    before = logits(model, inputs)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, inputs), before)
    pt.detach(other)
    assert torch.equal(logits(other, inputs), logits(architecture.make(), inputs))
    assert torch.equal(logits(model, inputs), before)


@every([a for a in zoo.ARCHITECTURES if a.kind == "encoder-decoder"], JOINT)
def test_a_cross_prefix_is_a_pre_filled_cross_cache(architecture: zoo.Architecture, variant: str) -> None:
    """The cross prefix stands in front of the encoder's states, at offset 0: a bare decoder sees the same."""
    model = architecture.make()
    torch.manual_seed(1)
    pt.attach(model, make_method(variant, sites=["cross"]), tokenizer=tokenizer())
    leave_start(model)
    inputs = zoo.inputs_for(architecture)
    ours = logits(model, inputs)
    prefix = model.prefixtune.get("default")
    pairs = {
        name: [t.detach().expand(2, -1, -1, -1) for t in prefix.keys_values(s)] for name, s in prefix.slots.items()
    }
    pt.detach(model)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    model(**inputs, past_key_values=cache)  # fills the cross cache with the encoder's states
    filled = cache.cross_attention_cache
    fresh = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for index, layer in enumerate(filled.layers):
        key, value = pairs[f"cross.{index}"]
        fresh.cross_attention_cache.update(torch.cat([key, layer.keys], 2), torch.cat([value, layer.values], 2), index)
        fresh.is_updated[index] = True
    mask = torch.ones(2, P + inputs["attention_mask"].shape[1], dtype=torch.long)
    states = torch.zeros(2, mask.shape[1], 32)  # never read: the cross cache is full
    reference = model(
        encoder_outputs=(states,),
        attention_mask=mask,
        decoder_input_ids=inputs["decoder_input_ids"],
        past_key_values=fresh,
    )
    close(ours, reference.logits.detach())


@pytest.mark.parametrize("method", [pt.PTuningV2(length=P), pt.AdaptivePrefix(length=P, token_gate_std=0.5)], ids=str)
@pytest.mark.parametrize("architecture", [LLAMA, BERT], ids=lambda architecture: architecture.name)
def test_in_bfloat16_a_prefix_costs_no_more_precision_than_the_model_itself(
    architecture: zoo.Architecture, method: pt.PTuningV2 | pt.AdaptivePrefix
) -> None:
    """Against float32: the largest error of the logits is at most twice the bare model's, and 1 % of their range."""
    inputs = zoo.inputs_for(architecture, rows=4, length=24)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = architecture.make().to(dtype)
        bare = logits(model, inputs).float()
        torch.manual_seed(1)
        found[dtype] = bare, logits(pt.attach(model, method), inputs).float()
    bare_error, error = ((a - b).abs().max() for a, b in zip(*found.values(), strict=True))
    reach = found[torch.float32][1].abs().max()
    assert error <= 2 * bare_error + 1e-2 * reach
