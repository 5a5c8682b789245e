"""Queries without the turn of a rotary embedding: the model's own projections, on every rotary architecture."""

from __future__ import annotations

import math

import pytest
import torch
import zoo
from test_contract import leave_start, make_method
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import prefixtune as pt
from prefixtune import rotary
from prefixtune.attention import AttentionCall
from prefixtune.bank import names_in
from prefixtune.rotary import Layout, Rotation, find_layout
from prefixtune.seat import SEAT, Seat

ROTARY = [
    "llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt_oss", "gpt_neox", "phi3", "deepseek_v3", "mqa", "modernbert",
]  # fmt: skip


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def seats(model: PreTrainedModel) -> list[Seat]:
    return [vars(module)[SEAT] for module in model.modules() if SEAT in vars(module)]


def calls(name: str, inputs: dict[str, Tensor]) -> list[AttentionCall]:
    model = zoo.BY_NAME[name].make(torch.float64)
    pt.attach(model, make_method("content"))
    seen: list[AttentionCall] = []
    with model.prefixtune.watched(lambda prefix, slot, call: seen.append(call)), torch.no_grad():
        model(**inputs)
    return seen


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_content_is_the_projection_that_the_model_turns(name: str) -> None:
    for call in calls(name, zoo.inputs_for(zoo.BY_NAME[name])):
        assert call.hidden is not None
        B, H, T, D = call.query.shape
        projected = call.module.q_proj(call.hidden).view(B, T, H, D).transpose(1, 2)
        torch.testing.assert_close(call.content, projected, rtol=0, atol=1e-6)  # angles are float32
        assert (call.query - projected)[:, :, 1:].abs().max() > 1e-2


@pytest.mark.parametrize("name", ROTARY)
def test_a_token_has_one_content_wherever_it_stands(name: str) -> None:
    """In the first layer, where nothing but its position tells it from its like."""
    first = calls(name, {"input_ids": torch.full((1, 6), 3)})[0]
    assert (first.query - first.query[:, :, :1]).abs().max() > 1e-3
    torch.testing.assert_close(first.content, first.content[:, :, :1].expand_as(first.content), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted({a.name for a in zoo.ARCHITECTURES} - {*ROTARY, "vit"}))
def test_where_nothing_turns_the_content_is_the_query(name: str) -> None:
    for call in calls(name, zoo.inputs_for(zoo.BY_NAME[name], length=5)):
        assert call.content is call.query


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_layout_is_found_from_one_token_at_two_positions(pairs: bool, back: bool, halved: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    D, R = 12, 8
    before = torch.randn(1, 3, 1, D, generator=generator, dtype=torch.float64).expand(2, -1, -1, -1)
    angle = torch.tensor([0.0, 7.0])[:, None, None].double() * 10 ** -torch.linspace(0, 2, R // 2).double()
    query = before.clone()
    for j in range(R // 2):
        first, second = (2 * j, 2 * j + 1) if pairs else (j, j + R // 2)
        first, second = (first + D - R, second + D - R) if back else (first, second)
        cos, sin = angle[..., j, None].cos()[:, None], angle[..., j, None].sin()[:, None]
        query[..., first : first + 1] = before[..., first : first + 1] * cos - before[..., second : second + 1] * sin
        query[..., second : second + 1] = before[..., second : second + 1] * cos + before[..., first : first + 1] * sin
    given = angle if halved else angle.repeat_interleave(2, -1) if pairs else torch.cat([angle, angle], -1)
    assert find_layout(query, given.cos(), given.sin()) == Layout(pairs, back, halved)
    undone = Rotation(given.cos(), given.sin(), Layout(pairs, back, halved)).undo(query)
    torch.testing.assert_close(undone, before, rtol=0, atol=1e-12)
    assert find_layout(query * torch.tensor([1.0, math.e]).view(2, 1, 1, 1), given.cos(), given.sin()) is None


def test_a_turn_that_cannot_be_undone_is_refused_and_the_model_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.BY_NAME["llama"].make()
    monkeypatch.setattr(rotary, "find_layout", lambda query, cos, sin: None)
    for method in (pt.ContentPrefix(length=3), pt.LinearPrefix(length=3)):
        with pytest.raises(pt.ModelError, match="could not be undone, and (content|linear) is addressed"):
            pt.attach(model, method)
    assert names_in(model) == [] and not any(p.requires_grad is False for p in model.parameters())
    pt.attach(model, pt.PTuningV2(length=3))  # nothing else needs it


@pytest.mark.parametrize("method", ["content", "linear"])
def test_a_turn_that_no_position_ids_move_is_refused(method: str) -> None:
    """DINOv3 turns queries by where a patch is in the image."""
    config = DINOv3ViTConfig(**SMALL, image_size=32, patch_size=8)
    model = DINOv3ViTModel(config)
    with pytest.raises(pt.ModelError, match="DINOv3ViTAttention turns its queries by position"):
        pt.attach(model, make_method(method))
    assert names_in(model) == []
    pt.attach(model, pt.PTuningV2(length=3))


@pytest.mark.parametrize("method", ["content", "linear"])
@pytest.mark.parametrize("seed", range(3))
def test_a_layout_is_found_in_bfloat16_as_in_float32(seed: int, method: str) -> None:
    """Wide enough that rounding leaves more than a hundredth of the largest number."""
    config = LlamaConfig(**SMALL | {"hidden_size": 512, "num_attention_heads": 8}, vocab_size=64, head_dim=64)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    pt.attach(model, make_method(method))
    expected = [seat.layout for seat in seats(model)]
    assert None not in expected
    pt.detach(model)
    pt.attach(model.to(torch.bfloat16), make_method(method))
    assert [seat.layout for seat in seats(model)] == expected


@pytest.mark.parametrize("zeros", [[1], [0, 1, 2, 3]])
def test_a_token_with_an_embedding_of_zeros_is_not_what_the_layout_is_found_by(zeros: list[int]) -> None:
    """As padding's often is: its queries are zero at every position, and any layout would fit."""
    architecture = zoo.BY_NAME["deepseek_v3"]  # whose layout is not the first that is tried
    model = architecture.make()
    pt.attach(model, make_method("content"), name="whole")
    expected = [seat.layout for seat in seats(model)]
    assert expected == [Layout(pairs=False, back=True, halved=False)] * len(expected) != []
    other = architecture.make()
    other.get_input_embeddings().weight.data[zeros] = 0
    pt.attach(other, make_method("content"), name="zeros")
    assert [seat.layout for seat in seats(other)] == expected


def test_a_model_that_tells_nothing_of_its_turn_is_refused() -> None:
    model = zoo.BY_NAME["llama"].make()
    model.get_input_embeddings().weight.data.zero_()
    with pytest.raises(pt.ModelError, match="could not be undone"):
        pt.attach(model, make_method("content"))


def test_a_trained_prefix_finds_the_same_layout_as_a_fresh_one() -> None:
    """What a prefix adds differs by position until its layers are known, so they are not looked for under it."""
    given = zoo.inputs_for(zoo.BY_NAME["llama"])
    model = zoo.BY_NAME["llama"].make()
    pt.attach(model, make_method("content"), name="first")
    leave_start(model)
    with torch.no_grad():
        expected = model(**given).logits
        pt.attach(model, make_method("linear"), name="second")
        with pt.using(model, "first"):
            assert torch.equal(model(**given).logits, expected)
