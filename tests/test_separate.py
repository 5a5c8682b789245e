"""Prefixes outside the model's softmax: the model's own attention plus the written formula, values and gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import zoo
from test_contract import attached, close, leave_start, logits, make_method, rows_of, trainable
from torch import Tensor

import prefixtune as pt
from prefixtune.attention import AttentionCall
from prefixtune.prefix import Prefix, Slot

ARCHITECTURES = ["bert", "llama", "gpt2", "t5", "deepseek_v3"]


def by_hand(variant: str, prefix: Prefix, slot: Slot, call: AttentionCall) -> Tensor:
    """What the prefix adds, `[B, T, H, Dv]`, term by term."""
    key, value = (x.repeat_interleave(call.query.shape[1] // len(x), dim=0) for x in prefix.keys_values(slot))
    score = torch.einsum("bhtd,hpd->bhtp", call.content, key) * call.scale
    shares = score.softmax(-1)
    if call.prefix_mask is not None:  # a query to which nothing is left sees nothing
        shares = score.masked_fill(~call.prefix_mask, -torch.inf).softmax(-1).nan_to_num(0)
    if variant == "content":
        return torch.einsum("bhtp,hpd->bthd", shares, value)
    if variant == "zero_init":
        factor = torch.tanh(prefix.factors[f"{slot.layer.site}_{slot.layer.index}"])
        return torch.einsum("h,bhtp,hpd->bthd", factor, shares, value)
    if call.prefix_mask is not None:
        score = torch.where(call.prefix_mask, score, torch.zeros_like(score))
    return torch.einsum("bhtp,hpd->bthd", score, value)


@pytest.mark.parametrize("length", [3, 24])  # below and above half a head's size
@pytest.mark.parametrize("variant", ["zero_init", "linear", "content"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_separate_prefix_adds_its_formula_to_the_models_attention(name: str, variant: str, length: int) -> None:
    architecture = zoo.BY_NAME[name]
    model = architecture.make(torch.float64)
    pt.attach(model, make_method(variant, length=length))
    leave_start(model)
    seen: list[tuple[Slot, AttentionCall]] = []
    with model.prefixtune.watched(lambda prefix, slot, call: seen.append((slot, call))), torch.no_grad():
        model(**zoo.in_dtype(zoo.inputs_for(architecture), torch.float64))
    prefix, parameters = model.prefixtune.get("default"), list(trainable(model).values())
    assert {slot.key for slot, _ in seen} == set(prefix.slots)
    for slot, call in seen:
        call = dataclasses.replace(call, query=call.query.clone().requires_grad_())
        found = []
        for out in (prefix.attend(call, slot)[0], call.run_base()[0] + by_hand(variant, prefix, slot, call)):
            weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            gradients = torch.autograd.grad((out * weights).sum(), [call.query, *parameters], allow_unused=True)
            found.append([out, *(x for x in gradients if x is not None)])
        assert len(found[0]) == len(found[1])
        for ours, theirs in zip(*found, strict=True):
            close(ours, theirs, 1e-10)


@pytest.mark.parametrize("variant", ["zero_init", "linear", "content"])
def test_a_separate_prefix_that_scrolls_out_of_the_window_adds_nothing(variant: str) -> None:
    architecture = zoo.BY_NAME["mistral"]
    model = architecture.make(torch.float64)
    window = model.config.sliding_window
    pt.attach(model, make_method(variant, window="scroll", position_offset=4, length=4))
    leave_start(model)
    seen: list[tuple[Slot, AttentionCall]] = []
    with model.prefixtune.watched(lambda prefix, slot, call: seen.append((slot, call))), torch.no_grad():
        model(**zoo.inputs_for(architecture, length=window + 6))
    prefix = model.prefixtune.get("default")
    for slot, call in seen:
        added = prefix.attend(call, slot)[0] - call.run_base()[0]
        close(added, by_hand(variant, prefix, slot, call), 1e-10)
        assert call.prefix_mask is not None and added[:, window + 4 :].abs().max() < 1e-12 < added[:, 0].abs().max()


def test_a_linear_prefix_answers_for_each_position_alone() -> None:
    """Two prefixes side by side add what each adds, which no softmax over them allows."""
    architecture = zoo.BY_NAME["bert"]
    model = attached(architecture, "linear", torch.float64)
    seen: list[tuple[Slot, AttentionCall]] = []
    with model.prefixtune.watched(lambda prefix, slot, call: seen.append((slot, call))), torch.no_grad():
        model(**zoo.in_dtype(zoo.inputs_for(architecture), torch.float64))
    prefix = model.prefixtune.get("default")
    slot, call = seen[0]
    key, value = (x.detach().clone() for x in prefix.keys_values(slot))
    bare = call.run_base()[0]
    parts = []
    for kept in (slice(0, 2), slice(2, None)):
        with torch.no_grad():
            prefix.keys_values(slot)[1].zero_()[:, kept] = value[:, kept]
        parts.append(prefix.attend(call, slot)[0] - bare)
    with torch.no_grad():
        prefix.keys_values(slot)[1].copy_(value)
    assert torch.equal(prefix.keys_values(slot)[0], key)
    close(parts[0] + parts[1], prefix.attend(call, slot)[0] - bare, 1e-10)


@pytest.mark.parametrize("beside", ["linear", "content"])
@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "gpt_neox", "modernbert"])
def test_rows_beside_a_prefix_without_positions_keep_their_own(name: str, beside: str) -> None:
    """Only the prefix that asks for it is addressed by queries that no rotary embedding turned."""
    architecture, names = zoo.BY_NAME[name], ["zero", "other", "joint", "zero", None]
    model = architecture.make()
    for prefix, variant in (("zero", "zero_init"), ("other", beside), ("joint", "p_tuning_v2")):
        pt.attach(model, make_method(variant), name=prefix)
    leave_start(model)
    inputs = zoo.inputs_for(architecture, rows=len(names))
    with pt.using(model, names):
        mixed = logits(model, inputs)
    for row, prefix in enumerate(names):
        with pt.using(model, prefix):
            close(mixed[row : row + 1], logits(model, rows_of(inputs, row)))
