"""Where text and prefix stand, what sliding windows show, and what the gates read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from test_attachment import calls_of
from test_contract import P, attached, close, formula, generate, leave_start, logits
from torch import Tensor
from transformers import DynamicCache

import prefixtune as pt
from prefixtune.attention import AttentionCall, joint_attention

GPT2, LLAMA, MISTRAL = zoo.BY_NAME["gpt2"], zoo.BY_NAME["llama"], zoo.BY_NAME["mistral"]
BERT, BART, T5 = zoo.BY_NAME["bert"], zoo.BY_NAME["bart"], zoo.BY_NAME["t5"]


# Positions and windows


def test_position_offset_zero_leaves_the_text_where_it_stands() -> None:
    model = GPT2.make()
    pt.attach(model, pt.PTuningV2(length=P, position_offset=0))
    seen = []
    handle = model.transformer.wpe.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    logits(model, zoo.inputs_for(GPT2))
    handle.remove()
    assert seen[0].flatten()[:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_decoders_text_stands_behind_its_prefix_and_padding_is_not_counted() -> None:
    model = pt.attach(GPT2.make(), pt.PTuningV2(length=P))
    seen = []
    handle = model.transformer.wpe.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    logits(model, zoo.pad(zoo.inputs_for(GPT2), "left", 2))
    handle.remove()
    assert seen[0][0, 2:].tolist() == [P, P + 1, P + 2, P + 3, P + 4, P + 5]


def test_a_prefix_that_takes_no_positions_may_be_longer_than_there_are() -> None:
    small = BERT.make()
    config = type(small.config).from_dict(small.config.to_dict() | {"max_position_embeddings": 1024})
    config._attn_implementation = small.config._attn_implementation
    large = type(small)(config).eval()
    rows = small.config.max_position_embeddings
    states = small.state_dict()
    for name, table in large.state_dict().items():
        (table[:rows] if "position_embeddings" in name else table).copy_(states[name])
    for model in (small, large):
        pt.attach(model, pt.PTuningV2(length=rows + 8, init="zeros"))
        leave_start(model)
    assert torch.equal(logits(small, zoo.inputs_for(BERT)), logits(large, zoo.inputs_for(BERT)))


def test_robertas_positions_start_behind_its_padding_index() -> None:
    roberta = zoo.BY_NAME["roberta"]
    model = pt.attach(roberta.make(), pt.PTuningV2(length=P, position_offset=3))
    table = model.roberta.embeddings.position_embeddings
    seen = []
    handle = table.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    logits(model, zoo.inputs_for(roberta))
    handle.remove()
    assert seen[0][0].tolist() == [table.padding_idx + 1 + 3 + i for i in range(6)]


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_scrolling_prefix_is_a_pre_filled_cache_beyond_the_window(use_cache: bool) -> None:
    model = MISTRAL.make()  # window 8
    torch.manual_seed(1)
    pt.attach(model, pt.PTuningV2(length=P, window="scroll"))
    inputs = zoo.inputs_for(MISTRAL, length=12)
    ours = logits(model, inputs)
    prefix = model.prefixtune.get("default")
    pairs = {
        s.layer.index: [t.detach().expand(2, -1, -1, -1) for t in prefix.keys_values(s)] for s in prefix.slots.values()
    }
    generated = generate(model, inputs, use_cache=use_cache)
    pt.detach(model)
    cache = DynamicCache(config=model.config)
    for index, (key, value) in pairs.items():
        cache.update(key, value, index)
    mask = torch.ones(2, P + 12, dtype=torch.long)
    close(ours, logits(model, {"input_ids": inputs["input_ids"], "attention_mask": mask}, past_key_values=cache))
    pinned = pt.attach(MISTRAL.make(), pt.PTuningV2(length=P))
    with torch.no_grad():
        for mine, theirs in zip(pinned.prefixtune.get("default").parameters(), prefix.parameters(), strict=True):
            mine.copy_(theirs)
    assert (logits(pinned, inputs) - ours).abs().max() > 1e-3, "pinned and scrolling prefixes differ past the window"
    assert generated.shape == (2, 18)


def test_a_pinned_prefix_is_seen_past_the_window() -> None:
    model = attached(MISTRAL, "p_tuning_v2", torch.float64)
    inputs = zoo.inputs_for(MISTRAL, length=14)
    prefix = model.prefixtune.get("default")
    for slot, call in calls_of(model, inputs):
        key, value = prefix.keys_values(slot)
        assert call.mask is not None
        assert not call.mask[0, 0, -1, 0], "the window hides the first token from the last"
        close(prefix.attend(call, slot)[0], formula(call, key, value, torch.ones(2, 14, P, dtype=torch.float64)), 1e-10)


def test_a_relative_bias_reaches_a_prefix_that_stands_before_the_text() -> None:
    """T5's decoder with offset P is a T5 whose self-attention cache was pre-filled: bias of positions 0..P-1."""
    model = T5.make()
    torch.manual_seed(1)
    pt.attach(model, pt.PTuningV2(length=P, sites=["decoder"], position_offset={"decoder": P}))
    leave_start(model)
    inputs = zoo.inputs_for(T5)
    ours = logits(model, inputs)
    prefix = model.prefixtune.get("default")
    pairs = {
        s.layer.index: [t.detach().expand(2, -1, -1, -1) for t in prefix.keys_values(s)] for s in prefix.slots.values()
    }
    pt.detach(model)
    cache = tf.EncoderDecoderCache(DynamicCache(), DynamicCache())
    for index, (key, value) in pairs.items():
        cache.self_attention_cache.update(key, value, index)
    mask = torch.ones(2, P + 4, dtype=torch.long)
    close(ours, logits(model, inputs | {"decoder_attention_mask": mask}, past_key_values=cache))


@pytest.mark.parametrize("padded", [False, True], ids=["", "left padding"])
@pytest.mark.parametrize(("length", "offset"), [(4, 1), (4, 2), (10, 7), (3, 5)])
def test_a_prefix_that_reaches_into_the_text_has_the_bias_of_its_positions(
    length: int, offset: int, padded: bool
) -> None:
    """Prefix position j stands at j and token t at offset + t, be the text as short as it may."""
    model = pt.attach(T5.make(), pt.PTuningV2(length=length, position_offset=offset))
    leave_start(model)
    layers = {"encoder": model.encoder.block[0], "decoder": model.decoder.block[0]}
    for T in (1, 2, 6):
        ids = torch.full((2, T), 5)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
        for slot, call in calls_of(model, zoo.pad(inputs, "left", 2) if padded else inputs):
            if slot.layer.site == "cross":
                assert call.prefix_bias is None
                continue
            own = layers[slot.layer.site].layer[0].SelfAttention
            distance = torch.arange(length) - (offset + torch.arange(T))[:, None]
            bucket = own._relative_position_bucket(
                distance, slot.layer.site == "encoder", own.relative_attention_num_buckets,
                own.relative_attention_max_distance,
            )  # fmt: skip
            expected = own.relative_attention_bias(bucket).permute(2, 0, 1)
            assert call.prefix_bias is not None
            close(call.prefix_bias[-1, :, -T:], expected, 0)
    inputs = zoo.inputs_for(T5)
    inputs = zoo.pad(inputs, "left", 2) if padded else inputs
    assert torch.equal(generate(model, inputs), generate(model, inputs, use_cache=False))


@pytest.mark.parametrize("config", [tf.BartConfig, tf.MBartConfig], ids=lambda config: config.__name__)
def test_a_decoder_that_counts_its_own_positions_moves_behind_a_prefix_row_by_row(config: Any) -> None:
    """BART's decoder takes no positions; with an empty cross prefix, offset k is a decoder text k tokens later."""
    shape = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    torch.manual_seed(0)
    model = tf.AutoModelForSeq2SeqLM.from_config(
        config(vocab_size=64, d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, **shape)
    ).eval()
    for name, offset in (("near", 0), ("far", 5)):
        pt.attach(model, pt.PTuningV2(length=2, sites=["decoder"], position_offset={"decoder": offset}), name=name)
    seen: list[Tensor] = []
    table = model.get_decoder().embed_positions
    handle = torch.nn.Embedding.forward  # the table's own rows, computed by torch alone
    rows = [handle(table, torch.arange(start, start + 4) + table.offset) for start in (0, 5)]
    table.register_forward_hook(lambda module, args, out: seen.append(out))
    inputs = zoo.inputs_for(BART)
    with pt.using(model, ["far", "near"]):
        logits(model, inputs)
    close(seen[-1][0], rows[1])
    close(seen[-1][1], rows[0])


@pytest.mark.parametrize("method", [pt.PTuningV2(length=P), pt.AdaptivePrefix(length=P)], ids=lambda m: m.name())
@pytest.mark.parametrize("offset", [3, {"encoder": 3}])
def test_a_prefix_scrolls_out_of_an_encoders_window_from_where_the_text_stands(offset: Any, method: Any) -> None:
    """Text at position offset + t sees prefix position j if they are less than a window apart."""
    modernbert = zoo.BY_NAME["modernbert"]
    model = pt.attach(modernbert.make(), replace(method, window="scroll", position_offset=offset))
    at, prefix = 3 + torch.arange(14)[:, None], torch.arange(P)
    inputs = zoo.inputs_for(modernbert, length=14)
    shown = {slot.layer.window: call.prefix_mask for slot, call in calls_of(model, inputs)}
    assert shown.keys() == {None, 5}
    assert shown[None] is None
    assert shown[5] is not None
    assert torch.equal(shown[5][0, 0], at - prefix < 5)


def prepared(seen: Tensor, past: int = 0) -> Tensor:
    """A 4-d mask, `[1, 1, T, past + T]`, of what sees what, `[T, T]`; what is past is seen by all."""
    return torch.cat([torch.ones(len(seen), past, dtype=torch.bool), seen], 1)[None, None]


def masks(T: int) -> dict[str, Tensor]:
    """What sees what among T tokens, `[T, T]`."""
    causal = torch.ones(T, T).tril().bool()
    blocks, both_ways, hole = causal.clone(), causal.clone(), causal.clone()
    blocks[4:, :4] = False
    both_ways[:3, :3] = True
    hole[4:, 3] = False
    local = causal.clone()
    local[-1, :-1] = False
    return {"causal": causal, "blocks": blocks, "both ways": both_ways, "hole": hole, "local": local}


@pytest.mark.parametrize("form", ["bool", "additive", "biased"])
@pytest.mark.parametrize("kind", masks(8))
@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=lambda architecture: architecture.name)
def test_a_prepared_mask_hides_keys_and_moves_no_text(architecture: zoo.Architecture, kind: str, form: str) -> None:
    """Whatever it hides, the text stands where a pre-filled cache and the same mask have it."""
    T, ids = 8, zoo.inputs_for(architecture, length=8)["input_ids"]
    model, seen = attached(architecture, "p_tuning_v2"), masks(T)[kind]

    def given(past: int) -> Tensor:
        mask = prepared(seen, past)
        if form == "bool":
            return mask
        bias = -0.1 * (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0) if form == "biased" else 0.0
        bias = torch.cat([torch.zeros(T, past), torch.zeros(T, T) + bias], 1)
        return torch.where(mask, bias, torch.finfo(torch.float32).min)

    ours = logits(model, {"input_ids": ids, "attention_mask": given(0)}, use_cache=False)
    prefix = model.prefixtune.get("default")
    cache = DynamicCache(config=model.config)
    for slot in prefix.slots.values():
        cache.update(*[t.detach().expand(2, -1, -1, -1) for t in prefix.keys_values(slot)], slot.layer.index)
    pt.detach(model)
    close(ours, logits(model, {"input_ids": ids, "attention_mask": given(P)}, past_key_values=cache))


@pytest.mark.parametrize("opened", ["nothing", "everything", "itself"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_in_a_prepared_mask_is_padding_whatever_its_own_rows_are_open_to(side: str, opened: str) -> None:
    """Masks leave a row of padding open to something, so that its softmax has something."""
    model, inputs = attached(LLAMA, "p_tuning_v2"), zoo.inputs_for(LLAMA)
    whole, padded = logits(model, inputs), zoo.pad(inputs, side, 3)
    text = padded["attention_mask"][0].bool()
    seen = torch.ones(9, 9).tril().bool() & text
    if opened != "nothing":
        seen[~text] = torch.ones(9, 9).bool()[~text] if opened == "everything" else torch.eye(9).bool()[~text]
    mask = prepared(seen).expand(2, -1, -1, -1)
    close(zoo.unpad(logits(model, {"input_ids": padded["input_ids"], "attention_mask": mask}), side, 3), whole)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=lambda architecture: architecture.name)
def test_a_fresh_prefix_that_does_nothing_does_nothing_under_a_mask_of_blocks(architecture: zoo.Architecture) -> None:
    model, ids = architecture.make(), zoo.inputs_for(architecture, length=8)["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": prepared(masks(8)["blocks"])}
    bare = logits(model, inputs)
    pt.attach(model, pt.ZeroInitPrefix(length=P))
    close(logits(model, inputs), bare, 0)


# Gates


@pytest.mark.parametrize("side", ["left", "right"])
def test_gates_are_lambda_times_alpha_averaged_over_the_text_alone(side: str) -> None:
    model = attached(LLAMA, "adaptive-token")
    inputs = zoo.inputs_for(LLAMA)
    plain, padded = pt.gates(model, **inputs), pt.gates(model, **zoo.pad(inputs, side, 3))
    assert plain.keys() == {"decoder"}
    assert plain["decoder"].shape == (2, 2, P)
    close(padded["decoder"], plain["decoder"])
    prefix = model.prefixtune.get("default")
    for slot, call in calls_of(model, inputs):
        gate = prefix.gates[f"decoder_{slot.layer.index}"]
        alpha = torch.sigmoid(call.hidden @ gate.token_gate.weight)
        close(plain["decoder"][:, slot.layer.index], (gate.layer_gate * alpha).mean(1))


def test_gates_of_layers_of_unequal_length_are_padded_with_nan() -> None:
    model = pt.attach(LLAMA.make(), pt.AdaptivePrefix(lengths=[2, 5]))
    found = pt.gates(model, **zoo.inputs_for(LLAMA))["decoder"]
    assert found.shape == (2, 2, 5)
    assert found[:, 0, 2:].isnan().all()
    assert not found[:, 1].isnan().any()


def test_gates_of_a_prefix_without_gates_are_refused() -> None:
    model = attached(LLAMA, "p_tuning_v2")
    with pytest.raises(pt.ConfigError, match="'p_tuning_v2' has no gates"):
        pt.gates(model, **zoo.inputs_for(LLAMA))
    with pt.using(model, None), pytest.raises(pt.ConfigError, match="no prefix is in use"):
        pt.gates(model, **zoo.inputs_for(LLAMA))


@pytest.mark.parametrize("architecture", [BERT, zoo.BY_NAME["vit"]], ids=lambda a: a.name)
def test_mean_gates_read_the_mean_of_the_text(architecture: zoo.Architecture) -> None:
    model = architecture.make(torch.float64)
    torch.manual_seed(1)
    pt.attach(model, pt.AdaptivePrefix(length=P, gate_input="mean", token_gate_std=0.3))
    leave_start(model)
    inputs = zoo.in_dtype(zoo.inputs_for(architecture), torch.float64)
    if architecture is BERT:
        inputs = zoo.pad(inputs, "right", 2)
    prefix = model.prefixtune.get("default")
    for slot, call in calls_of(model, inputs):
        gates = prefix.gates[f"encoder_{slot.layer.index}"]
        mean = call.hidden.mean(1) if call.real is None else call.hidden[:, :6].mean(1)
        gate = (gates.layer_gate * torch.sigmoid(mean @ gates.token_gate.weight))[:, None].expand(
            -1, call.query.shape[2], -1
        )
        key, value = prefix.keys_values(slot)
        real = slice(None) if call.real is None else slice(0, 6)
        close(prefix.attend(call, slot)[0][:, real], formula(call, key, value, gate)[:, real], 1e-10)


@pytest.mark.parametrize("reads", ["token", "first", "mean", "none"])
def test_a_row_of_padding_alone_leaves_every_gradient_that_of_the_batch_without_it(reads: str) -> None:
    model = BERT.make()
    pt.attach(model, pt.AdaptivePrefix(length=P, gate_input=reads, token_gate_std=0.3))
    leave_start(model)
    inputs = zoo.inputs_for(BERT, rows=3)
    inputs["attention_mask"][1], inputs["attention_mask"][2, 4:] = 0, 0
    found = []
    for given, rows in ((inputs, [0, 2]), ({name: x[[0, 2]] for name, x in inputs.items()}, [0, 1])):
        model.zero_grad()
        out = model(**given).logits
        assert out.isfinite().all()
        out[rows][given["attention_mask"][rows].bool()].pow(2).sum().backward()
        found.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})
        shown = pt.gates(model, **given)["encoder"]
        assert shown[rows].isfinite().all()
        assert len(shown) == 2 or shown[1].isnan().all(), "there is no text to average over"
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        close(gradient, found[1][name])


def test_sinks_of_each_query_take_their_share_beside_a_gate() -> None:
    """Inkling2's own function, the prefix joined to its keys, is the formula under a gate that is open."""
    inkling = pytest.importorskip("transformers.models.inkling2.modeling_inkling2")
    torch.manual_seed(1)
    B, H, G, T, D = 2, 4, 2, 5, 8
    query, key, value = (torch.randn(B, heads, T, D, dtype=torch.float64) for heads in (H, G, G))
    module = torch.nn.Module()
    module.num_key_value_groups = H // G
    options = {"scaling": 0.3, "sinks": torch.randn(B, H, T, 1, dtype=torch.float64)}
    call = AttentionCall(module, query, key, value, None, options, inkling.eager_attention_forward, causal=False)
    prefix_key, prefix_value = torch.randn(2, G, P, D, dtype=torch.float64)
    ungated, _ = joint_attention(call, prefix_key, prefix_value)
    ones = torch.ones(1, T, P, dtype=torch.float64)
    close(joint_attention(call, prefix_key, prefix_value, ones)[0], ungated, 1e-6)  # their softmax is float32's
    without = replace(call, options={"scaling": 0.3})
    assert (joint_attention(without, prefix_key, prefix_value, ones)[0] - ungated).abs().max() > 0.1


def test_a_closed_gate_damps_the_model_and_does_not_restore_it() -> None:
    model = LLAMA.make()
    inputs = zoo.inputs_for(LLAMA)
    bare = logits(model, inputs)
    pt.attach(model, pt.AdaptivePrefix(length=P, token_gate=False, layer_gate_start=0.0, position_offset=0))
    assert (logits(model, inputs) - bare).abs().max() > 1e-3
    for slot, call in calls_of(model, inputs):
        key, value = torch.zeros(slot.shapes()[0]), torch.zeros(slot.shapes()[1])
        ones = torch.ones(2, 6, P)
        close(model.prefixtune.get("default").attend(call, slot)[0], formula(call, key, value, ones))


def test_a_first_gate_without_the_first_token_is_refused() -> None:
    model = attached(LLAMA, "adaptive-first")
    inputs = zoo.inputs_for(LLAMA)
    cache = DynamicCache(config=model.config)
    with pt.using(model, None):
        model(**inputs, past_key_values=cache)
    with pytest.raises(pt.ConfigError, match="filled without the prefix"):
        model(input_ids=torch.tensor([[5], [6]]), past_key_values=cache)
