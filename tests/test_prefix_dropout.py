"""A dropout of the prefix: each row has keys and values of its own, and attends to them as it would alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from test_contract import (
    VARIANTS,
    close,
    enable_checkpointing,
    every,
    leave_start,
    logits,
    make_method,
    rows_of,
    tokenizer,
)
from torch import Tensor
from transformers import PreTrainedModel

import prefixtune as pt
from prefixtune.attention import AttentionCall
from prefixtune.prefix import KeysValues, Prefix, Slot

P_DROP, ROWS = 0.25, 3
ARCHITECTURES = [
    zoo.BY_NAME[name] for name in ("gpt2", "llama", "mistral", "bert", "modernbert", "deberta-v2", "bart", "t5", "vit")
]


def under_dropout(architecture: zoo.Architecture, variant: str, **options: Any) -> PreTrainedModel:
    """A model whose prefix alone trains: the base's own dropout is off."""
    model = architecture.make()
    torch.manual_seed(1)
    pt.attach(model, make_method(variant, dropout=P_DROP, **options), tokenizer=tokenizer())
    leave_start(model)
    model.eval()
    model.prefixtune.get("default").train()
    return model


def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, KeysValues]:
    """What each layer attends to, by slot, as forwards fill it in."""
    found: dict[str, KeysValues] = {}
    own = Prefix.keys_values_for

    def recording(prefix: Prefix, slot: Slot, call: AttentionCall) -> KeysValues:
        found[slot.key] = own(prefix, slot, call)
        return found[slot.key]

    monkeypatch.setattr(Prefix, "keys_values_for", recording)
    return found


@every(ARCHITECTURES, VARIANTS)
def test_a_row_under_dropout_attends_as_alone_to_what_is_left_of_its_own_prefix(
    architecture: zoo.Architecture, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, found = under_dropout(architecture, variant), recorded(monkeypatch)
    inputs = zoo.inputs_for(architecture, rows=ROWS)
    together = logits(model, inputs)
    drawn, prefix = dict(found), model.prefixtune.get("default")
    assert set(drawn) == set(prefix.slots)
    prefix.eval()
    monkeypatch.setattr(prefix, "made_ahead", lambda sites: {})
    for row in range(ROWS):
        monkeypatch.setattr(prefix, "keys_values", lambda slot, row=row: tuple(x[row] for x in drawn[slot.key]))
        close(together[row : row + 1], logits(model, rows_of(inputs, row)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_dropout_leaves_is_scaled_by_how_much_it_leaves(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = under_dropout(zoo.BY_NAME["bert"], variant), recorded(monkeypatch)
    prefix = model.prefixtune.get("default")
    logits(model, zoo.inputs_for(zoo.BY_NAME["bert"], rows=64))
    for name, slot in prefix.slots.items():
        for whole, rows in zip(prefix.keys_values(slot), found[name], strict=True):
            assert rows.shape == (64, *whole.shape)
            kept = rows != 0
            assert abs(kept.double().mean().item() - (1 - P_DROP)) < 0.02
            assert len(kept.flatten(1).unique(dim=0)) == 64  # no two rows lost the same
            torch.testing.assert_close(rows, torch.where(kept, whole / (1 - P_DROP), 0.0))


@pytest.mark.parametrize("variant", ["p_tuning_v2", "adaptive", "content", "linear"])
def test_a_prefix_scrolls_out_of_the_window_under_dropout_too(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = zoo.BY_NAME["mistral"]
    model = under_dropout(architecture, variant, window="scroll", position_offset=4, length=4)
    found, prefix = recorded(monkeypatch), model.prefixtune.get("default")
    inputs = zoo.inputs_for(architecture, rows=ROWS, length=model.config.sliding_window + 6)
    together, drawn = logits(model, inputs), dict(found)
    prefix.eval()
    for row in range(ROWS):
        monkeypatch.setattr(prefix, "keys_values", lambda slot, row=row: tuple(x[row] for x in drawn[slot.key]))
        close(together[row : row + 1], logits(model, rows_of(inputs, row)))


@pytest.mark.parametrize("variant", ["p_tuning_v2", "prefix_tuning", "adaptive", "zero_init"])
def test_checkpointed_layers_draw_the_same_dropout_twice(variant: str) -> None:
    def gradients(checkpointed: bool) -> list[Tensor]:
        model = under_dropout(zoo.BY_NAME["llama"], variant)
        model.train()  # this llama has no dropout of its own, and checkpointing is for training
        if checkpointed:
            enable_checkpointing(model)
        torch.manual_seed(5)
        model(**zoo.inputs_for(zoo.BY_NAME["llama"], rows=ROWS)).logits.square().mean().backward()
        return [x.grad for x in model.parameters() if x.grad is not None]

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        close(ours, plain)


def test_rows_of_other_prefixes_are_not_dropped_with_them() -> None:
    """Without a gradient, too, where rows of several prefixes are otherwise attended to at once."""
    model = under_dropout(zoo.BY_NAME["llama"], "p_tuning_v2")
    pt.attach(model, make_method("p_tuning_v2"), name="still")
    leave_start(model)
    model.prefixtune.get("default").train()
    inputs = zoo.inputs_for(zoo.BY_NAME["llama"], rows=4)
    with pt.using(model, ["default", "still", None, "default"]):
        once, twice = logits(model, inputs), logits(model, inputs)
    moved = [not torch.equal(*rows) for rows in zip(once, twice, strict=True)]
    assert moved == [True, False, False, True]
    with pt.using(model, "still"):
        close(once[1:2], logits(model, rows_of(inputs, 1)))
