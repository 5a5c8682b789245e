"""Heads in classes that hold the parts of a body themselves, and what else a third reading of the core found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import prefixtune as pt
from prefixtune.errors import ConfigError, ModelError

LLAMA = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_T5: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_PART = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = _PART | {"image_size": 16, "patch_size": 8}


def t5() -> tf.PreTrainedModel:
    return tf.T5ForQuestionAnswering(tf.T5Config(**_T5, decoder_start_token_id=0, dropout_rate=0.0))


def clip() -> tf.PreTrainedModel:
    config = tf.CLIPConfig(vision_config=_VISION, text_config=_PART | {"vocab_size": 64}, projection_dim=16)
    return tf.CLIPForImageClassification(config)


def siglip() -> tf.PreTrainedModel:
    config = tf.SiglipConfig(vision_config=_VISION, text_config=_PART | {"vocab_size": 64})
    return tf.SiglipForImageClassification(config)


def answers(model: tf.PreTrainedModel) -> Tensor:
    torch.manual_seed(1)
    given: dict[str, Tensor]
    if isinstance(model, tf.T5ForQuestionAnswering):
        given = {"input_ids": torch.randint(3, 64, (2, 7))}
    else:
        given = {"pixel_values": torch.randn(2, 3, 16, 16)}
    with torch.no_grad():
        found = model.eval()(**given)
    return found.start_logits if isinstance(model, tf.T5ForQuestionAnswering) else found.logits


@pytest.mark.parametrize(("make", "head"), [(t5, "qa_outputs"), (clip, "classifier"), (siglip, "classifier")])
def test_a_head_beside_the_parts_of_a_body_is_trained_and_saved_with_the_prefix(
    make: Any, head: str, tmp_path: Path
) -> None:
    """Two loads of a base without that head draw it anew, and are the same base."""
    torch.manual_seed(0)
    model = make()
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{head}.")}
    model.save_pretrained(tmp_path / "base", state_dict=kept)
    model = type(model).from_pretrained(tmp_path / "base")
    pt.attach(model, pt.PTuningV2(length=3, init_std=1.0))
    heads = [name for name, parameter in model.named_parameters() if parameter.requires_grad and f".{head}." in name]
    assert heads
    with torch.no_grad():
        for name in heads:
            model.get_parameter(name).add_(0.5)
    expected = answers(model)
    pt.save(model, tmp_path / "prefix")
    other = type(model).from_pretrained(tmp_path / "base")
    pt.load(other, tmp_path / "prefix")
    torch.testing.assert_close(answers(other), expected)


def test_a_body_has_no_head() -> None:
    body = tf.AutoModel.from_config(t5().config)
    pt.attach(body, pt.PTuningV2(length=3))
    assert {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad} == {"prefixtune"}
    assert not any(".heads." in name for name, p in body.named_parameters() if p.requires_grad)


def recurrent() -> tf.PreTrainedModel:
    config = tf.RecurrentGemmaConfig(
        **LLAMA | {"num_key_value_heads": 2, "lru_width": 32, "attention_window_size": 64, "pad_token_id": 0},
        block_types=["recurrent", "attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    return tf.RecurrentGemmaForCausalLM(config).eval()


def test_a_model_that_forgets_at_position_0_takes_no_moved_tokens() -> None:
    with pytest.raises(ConfigError, match="forgets the text before where a position is 0.*expected position_offset=0"):
        pt.attach(recurrent(), pt.PTuningV2(length=5))
    model = pt.attach(recurrent(), pt.PTuningV2(length=5, init_std=1.0, position_offset=0))
    ids = torch.randint(3, 64, (2, 7))
    with torch.no_grad():
        first, second = model(input_ids=ids).logits, model(input_ids=ids).logits
    assert torch.equal(first, second)


def test_a_mask_that_says_nothing_of_the_keys_is_refused() -> None:
    """MiniMax hands its attention a mask of one column for all keys while it decodes a padded batch."""
    config = tf.MiniMaxConfig(
        **LLAMA | {"num_hidden_layers": 4}, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        num_experts_per_tok=1, layer_types=["linear_attention", "full_attention"] * 2, pad_token_id=0,
    )  # fmt: skip
    model = pt.attach(tf.MiniMaxForCausalLM(config).eval(), pt.PTuningV2(length=5))
    ids, mask = torch.randint(3, 64, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    with pytest.raises(ModelError, match="was given 8 keys and a mask of 1, .*give rows without padding"):
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3)
    assert model.generate(input_ids=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 10)


def test_detach_frees_the_embeddings_that_were_resized_under_a_prefix() -> None:
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA))
    pt.attach(model, pt.PTuningV2(length=4))
    model.resize_token_embeddings(70)
    pt.detach(model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == []


def test_an_encoder_alone_reads_its_prefix_as_inside_an_encoder_decoder() -> None:
    """BART's and UMT5's encoders keep a config that says encoder-decoder."""
    config = tf.BartConfig(vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4)
    torch.manual_seed(0)
    whole = tf.BartModel(config).eval()
    alone = copy.deepcopy(whole.encoder)
    ids = torch.randint(3, 64, (2, 7))
    numbers = []
    for model, sites in ((whole, ("encoder",)), (alone, ("encoder",))):
        torch.manual_seed(1)
        pt.attach(model, pt.PTuningV2(length=3, init_std=1.0, sites=sites))
        numbers.append([p.detach() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*numbers, strict=True))
    with torch.no_grad():
        inside = whole(input_ids=ids, decoder_input_ids=ids).encoder_last_hidden_state
        assert torch.allclose(alone(input_ids=ids).last_hidden_state, inside, atol=1e-6)
