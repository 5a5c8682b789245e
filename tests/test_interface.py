"""How models call the attention interface: by its names, from modules of any name, with biases in their masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from test_contract import P, close, leave_start, logits
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import prefixtune as pt
from prefixtune import geometry

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}


def made(config: Any, kind: Any = tf.AutoModelForCausalLM) -> PreTrainedModel:
    torch.manual_seed(0)
    return kind.from_config(config).eval()


def vision_language() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny Qwen2.5-VL, whose vision tower names the mask in its calls, and a text with an image."""
    text = {**SMALL, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "window_size": 16,
        "temporal_patch_size": 1, "intermediate_size": 32, "out_hidden_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = tf.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=60, video_token_id=61, vision_start_token_id=58,
        vision_end_token_id=59, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    ids = torch.tensor([[5, 58, 60, 60, 60, 60, 59, 7]])
    image = {"pixel_values": torch.randn(16, 48), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return made(config, tf.AutoModelForImageTextToText), {
        "input_ids": ids, "mm_token_type_ids": (ids == 60).int(), **image,
    }  # fmt: skip


def test_a_vision_tower_that_names_the_mask_in_its_calls_runs_beside_a_prefix() -> None:
    model, inputs = vision_language()
    bare = logits(model, inputs)
    pt.attach(model, pt.PTuningV2(length=P))
    with pt.using(model, None):
        close(logits(model, inputs), bare, 0)
    assert (logits(model, inputs) - bare).abs().max() > 1e-3
    pt.detach(model)
    close(logits(model, inputs), bare, 0)


def filled(model: PreTrainedModel, batch: int) -> DynamicCache:
    """A cache with the prefix in it, the prefix taken out of the model."""
    prefix = model.prefixtune.get("default")
    pairs = {s.layer.index: [x.detach() for x in prefix.keys_values(s)] for s in prefix.slots.values()}
    pt.detach(model)
    cache = DynamicCache()
    for index, pair in pairs.items():
        cache.update(*(x.expand(batch, -1, -1, -1).clone() for x in pair), index)
    return cache


def test_a_decoder_that_names_the_mask_in_its_calls_has_its_prefix_as_a_filled_cache() -> None:
    if not has("Afmoe"):
        pytest.skip("this transformers has no Afmoe")
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "num_dense_layers": 1}
    model = made(tf.AfmoeConfig(**SMALL, **experts))
    pt.attach(model, pt.PTuningV2(length=P))
    leave_start(model)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 3, 4, 5]])}
    ours = logits(model, inputs)
    mask = torch.ones(2, P + 4, dtype=torch.long)
    close(ours, logits(model, inputs | {"attention_mask": mask}, past_key_values=filled(model, 2)))


def has(kind: str) -> bool:
    return f"{kind}Config" in dir(tf)


def test_an_attention_of_another_name_is_reached() -> None:
    if not has("LongcatFlash"):
        pytest.skip("this transformers has no LongcatFlash")
    shape = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "moe_topk": 2, "expert_ffn_hidden_size": 16, "zero_expert_num": 1}
    sizes = {name: size for name, size in SMALL.items() if name.endswith("token_id") or name[:5] in ("vocab", "hidde")}
    config = tf.LongcatFlashConfig(
        **sizes, **shape, **experts, num_layers=2, num_attention_heads=4, num_key_value_heads=4, ffn_hidden_size=48,
        head_dim=8,
    )  # fmt: skip
    model, inputs = made(config), {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    bare = logits(model, inputs)
    pt.attach(model, pt.AdaptivePrefix(length=P))
    assert (logits(model, inputs) - bare).abs().max() > 1e-3
    with pt.using(model, None):
        close(logits(model, inputs), bare, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_in_a_mask_is_no_causality(sign: int) -> None:
    config = tf.BeitConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4,
        use_relative_position_bias=True,
    )  # fmt: skip
    model = made(config, tf.AutoModelForImageClassification)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_position_bias_table" in name:
                parameter.copy_(sign * (parameter.abs() + 0.1))
    pt.attach(model, pt.PTuningV2(length=P))
    assert model.prefixtune.geometry.sites == ("encoder",)


def test_a_classifier_of_images_has_the_size_of_its_vision_tower() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tf.CLIPConfig(vision_config={**shape, "image_size": 16, "patch_size": 8}, text_config=shape)
    model = made(config, tf.AutoModelForImageClassification)
    inputs = {"pixel_values": torch.randn(1, 3, 16, 16)}
    bare = logits(model, inputs)
    pt.attach(model, pt.PTuningV2(length=P))
    assert (logits(model, inputs) - bare).abs().max() > 1e-4


def test_a_model_whose_numbers_depend_on_what_is_trainable_is_attached() -> None:
    """torch multiplies matrices another way where one requires a gradient, which shows in the last bits of a Jamba."""
    torch.manual_seed(0)
    config = tf.JambaConfig(
        **{name: value for name, value in SMALL.items() if name != "head_dim"} | {"num_hidden_layers": 4},
        attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, num_experts=2, mamba_d_state=4,
        mamba_dt_rank=4,
    )  # fmt: skip
    model = tf.JambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pt.attach(model, pt.PTuningV2(length=P))
    pt.detach(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_config_without_an_end_of_text_is_attached() -> None:
    config = tf.MobileBertConfig(
        vocab_size=64, hidden_size=32, embedding_size=16, intermediate_size=48, intra_bottleneck_size=32,
        num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    if "eos_token_id" in vars(config):
        del config.eos_token_id
    model = pt.attach(made(config, tf.AutoModelForMaskedLM), pt.PTuningV2(length=P))
    assert len(model.prefixtune.get("default").slots) == 2


@pytest.mark.parametrize("kind", ["fsmt", "pegasus_x"])
def test_an_attention_that_names_its_states_otherwise_is_refused_for_what_it_does(kind: str) -> None:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    shape = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "pad_token_id": 0, "eos_token_id": 2} | heads
    model = made(
        tf.FSMTConfig(langs=["a", "b"], src_vocab_size=64, tgt_vocab_size=64, **shape)
        if kind == "fsmt"
        else tf.PegasusXConfig(vocab_size=64, block_size=8, num_global_tokens=4, decoder_start_token_id=1, **shape),
        tf.AutoModelForSeq2SeqLM,
    )
    with pytest.raises(pt.ModelError, match="never calls transformers' attention interface"):
        pt.attach(model, pt.PTuningV2(length=P))
    assert pt.prefixes(model) == []


def test_an_attention_without_states_is_named() -> None:
    with pytest.raises(pt.ModelError, match="Linear was called without hidden states"):
        geometry.attention_input(torch.nn.Linear(1, 1), (None,), {"scale": 2.0})


# What a mask does not say


def test_a_decoder_that_reads_its_prompt_both_ways_takes_no_gate_on_the_mean() -> None:
    """PaliGemma: what it goes on with would change what it has read."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": 8, "patch_size": 4, "projection_dim": 32}
    config = tf.PaliGemmaConfig(
        text_config={"model_type": "gemma", **SMALL}, vision_config=vision, image_token_index=63, projection_dim=32,
        hidden_size=32, pad_token_id=0,
    )  # fmt: skip
    model = made(config, tf.AutoModelForImageTextToText)
    with pytest.raises(pt.ConfigError, match="would leak the future into GemmaModel, which generates text"):
        pt.attach(model, pt.AdaptivePrefix(length=P, gate_input="mean"))
    assert pt.prefixes(model) == []
    for reads in ("token", "first", "none"):
        pt.attach(model, pt.AdaptivePrefix(length=P, gate_input=reads), name=reads)


def test_keys_that_are_compressed_by_position_are_no_place_for_an_offset() -> None:
    """DeepSeek-V4 hides compressed keys by position, so text that stands further on would see what comes behind it."""
    pytest.importorskip("transformers.models.deepseek_v4")
    config = tf.DeepseekV4Config(
        **(SMALL | {"num_key_value_heads": 1, "head_dim": 16}), num_local_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=16, q_lora_rank=16, o_lora_rank=16, o_groups=2, sliding_window=8, index_n_heads=2,
        index_head_dim=16, index_topk=64, layer_types=["heavily_compressed_attention", "compressed_sparse_attention"],
    )  # fmt: skip
    model = made(config)
    ids = torch.randint(3, 64, (1, 12))
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 64], 1)
    for offset in (None, 4):
        with pytest.raises(pt.ConfigError, match="see the future; expected position_offset=0"):
            pt.attach(model, pt.PTuningV2(length=P, position_offset=offset))
    pt.attach(model, pt.PTuningV2(length=P, position_offset=0))
    one, two = (logits(model, {"input_ids": given}, use_cache=False)[:, :-1] for given in (ids, other))
    close(one, two, 0)


@pytest.mark.parametrize(
    "method",
    [pt.AdaptivePrefix(length=P, gate_input="first"), pt.PTuningV2(length=P, window="scroll")],
    ids=["first", "scroll"],
)
def test_layers_that_run_on_chosen_positions_alone_refuse_what_needs_to_know_which(method: Any) -> None:
    model, inputs = gemma4(), {"input_ids": torch.randint(3, 64, (2, 12))}
    pt.attach(model, method)
    whole = logits(model, inputs)
    with pytest.raises(pt.ConfigError, match=r"this layer runs on chosen positions only \(1 of 12\)"):
        logits(model, inputs, logits_to_keep=1)
    close(logits(model, inputs), whole, 0)
    pt.attach(model, pt.AdaptivePrefix(length=P), name="token")
    close(logits(model, inputs, logits_to_keep=1), logits(model, inputs)[:, -1:])


def gemma4() -> Any:
    """Its last layers share keys and values, and run where logits are asked for."""
    pytest.importorskip("transformers.models.gemma4")
    return made(tf.Gemma4TextConfig(
        **(SMALL | {"num_hidden_layers": 4}), layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=8,
        num_kv_shared_layers=2, global_head_dim=8, hidden_size_per_layer_input=8, vocab_size_per_layer_input=64,
    ))  # fmt: skip


@pytest.mark.parametrize("chosen", ["default", None], ids=["prefix", "bare row"])
def test_the_last_logits_are_those_of_all_where_layers_run_on_chosen_positions_alone(chosen: str | None) -> None:
    model, inputs = gemma4(), {"input_ids": torch.randint(3, 64, (2, 7))}
    bare = logits(model, inputs)
    pt.attach(model, pt.PTuningV2(length=P))
    with pt.using(model, chosen):
        whole = logits(model, inputs)
        for count in (1, 2, 3):
            close(logits(model, inputs, logits_to_keep=count), whole[:, -count:])
            cache = tf.StaticCache(config=model.config, max_cache_len=16)
            close(logits(model, inputs, logits_to_keep=count, past_key_values=cache), whole[:, -count:])
    if chosen is None:
        close(whole, bare)


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
def test_a_sparse_attention_keeps_its_choice_of_keys(kind: str) -> None:
    """Such models put their choice into the mask themselves where their attention has the name 'sdpa' or 'eager'."""
    pytest.importorskip(f"transformers.models.{kind}")
    shape = {name: value for name, value in SMALL.items() if name != "head_dim"} | {"num_key_value_heads": 4}
    config = tf.AutoConfig.for_model(
        kind, **shape, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=10,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1,
        moe_intermediate_size=16, index_topk=4,
    )  # fmt: skip
    model, inputs = made(config), {"input_ids": torch.randint(3, 60, (2, 24))}
    bare = logits(model, inputs, use_cache=False)
    pt.attach(model, pt.ZeroInitPrefix(length=P), name="fresh")
    close(logits(model, inputs, use_cache=False), bare)
    pt.attach(model, pt.PTuningV2(length=P))
    with pt.using(model, None):
        close(logits(model, inputs, use_cache=False), bare)
    with pt.using(model, ["default", None]):
        mixed = logits(model, inputs, use_cache=False)
    close(mixed[1:], bare[1:])
    assert not torch.allclose(mixed[0], bare[0], atol=1e-3)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")  # the seam asks for its thread
def test_a_compiled_model_takes_a_prefix_a_row() -> None:
    llama = zoo.BY_NAME["llama"]
    model, inputs = llama.make(), zoo.inputs_for(llama)
    pt.attach(model, pt.PTuningV2(length=P), name="long")
    pt.attach(model, pt.PTuningV2(length=2), name="short")
    compiled = torch.compile(model, backend="eager")
    for names in (["long", "short"], ["short", None]):
        with pt.using(model, names), torch.no_grad():
            close(compiled(**inputs).logits, model(**inputs).logits)
    torch.compiler.reset()
