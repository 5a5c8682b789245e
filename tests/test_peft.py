"""PEFT's prefix-tuning checkpoints: PEFT's logits here, and ours in PEFT. PEFT itself is the reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_cases import (
    CASES,
    CLOSE,
    PEFT_WARNS,
    Case,
    P,
    all_inputs,
    answers,
    distance,
    inputs_for,
    peft,
    trained_by_peft,
    trained_here,
)
from safetensors.torch import load_file, save_file

import prefixtune as pt

pytestmark = PEFT_WARNS

every_case = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in CASES.items()],
)


@every_case
def test_an_imported_checkpoint_gives_pefts_logits(case: Case, tmp_path: Path) -> None:
    reference = trained_by_peft(case, tmp_path)
    bare, model = case.make(), pt.from_peft(case.make(), tmp_path)
    for inputs in all_inputs(case):
        ours = answers(case, model, inputs)
        assert distance(ours, answers(case, reference, inputs)) <= CLOSE
        assert distance(ours, answers(case, bare, inputs)) > 0.01
    assert not any(parameter.requires_grad for parameter in model.parameters())


@every_case
def test_an_exported_prefix_gives_its_logits_in_peft(case: Case, tmp_path: Path) -> None:
    model = trained_here(case)
    pt.to_peft(model, tmp_path)
    reference = peft.PeftModel.from_pretrained(case.make(), tmp_path)
    for inputs in all_inputs(case):
        assert distance(answers(case, model, inputs), answers(case, reference, inputs)) <= CLOSE


def test_a_checkpoint_trained_with_a_projection_holds_the_projected_prefix(tmp_path: Path) -> None:
    case = CASES["llama"]
    reference = trained_by_peft(case, tmp_path, prefix_projection=True, encoder_hidden_size=8)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["prefix_projection"] is True
    model = pt.from_peft(case.make(), tmp_path)
    for inputs in all_inputs(case):
        assert distance(answers(case, model, inputs), answers(case, reference, inputs)) <= CLOSE


@pytest.mark.parametrize(
    "method",
    [
        pt.PrefixTuning(length=P, hidden=8),
        pt.AdaptivePrefix(length=P, gate_input="none"),
        pt.AdaptivePrefix(length=P, token_gate=False),
    ],
    ids=["prefix_tuning", "free token gate", "layer gate"],
)
def test_what_depends_on_no_input_is_folded_into_plain_keys_and_values(method: Any, tmp_path: Path) -> None:
    case = CASES["gpt2"]
    model = trained_here(case, method)
    pt.to_peft(model, tmp_path)
    reference = peft.PeftModel.from_pretrained(case.make(), tmp_path)
    for inputs in all_inputs(case):
        assert distance(answers(case, model, inputs), answers(case, reference, inputs)) <= CLOSE


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "t5"])
def test_greedy_generation_is_pefts_token_for_token(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    reference, model = trained_by_peft(case, tmp_path), pt.from_peft(case.make(), tmp_path)
    inputs = inputs_for(case, length=7)
    inputs.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    ours = model.generate(**inputs, **options)
    assert torch.equal(ours, reference.generate(**inputs, **options))
    assert not torch.equal(ours, case.make().generate(**inputs, **options))


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_left_padding_gives_what_peft_gives_without_padding(name: str, tmp_path: Path) -> None:
    """PEFT itself differs there: it counts padding as text (positions in a forward, distances in sliding windows)."""
    case = CASES[name]
    reference, model = trained_by_peft(case, tmp_path), pt.from_peft(case.make(), tmp_path)
    plain = inputs_for(case, length=10)
    padded = {key: torch.nn.functional.pad(value, (3, 0)) for key, value in plain.items()}
    # Masked columns change the order of sums: the bare models move by 1e-6 as well.
    assert distance(answers(case, model, padded), answers(case, reference, plain)) <= 10 * CLOSE


def test_the_rows_that_reach_no_layer_in_peft_change_nothing_here(tmp_path: Path) -> None:
    """PEFT trains 2 x 2 rows for a T5 of two layers, but deals the first two out to both."""
    case = CASES["t5"]
    trained_by_peft(case, tmp_path)
    first = answers(case, pt.from_peft(case.make(), tmp_path), inputs_for(case))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors["prompt_embeddings"][:, 2 * case.token_dim :] += 1.0  # type: ignore[operator]
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    assert distance(answers(case, pt.from_peft(case.make(), tmp_path), inputs_for(case)), first) == 0.0


def test_import_then_export_then_import_keeps_every_bit(tmp_path: Path) -> None:
    case = CASES["t5"]
    trained_by_peft(case, tmp_path / "theirs")
    model = pt.from_peft(case.make(), tmp_path / "theirs")
    pt.to_peft(model, tmp_path / "ours")
    again = pt.from_peft(case.make(), tmp_path / "ours")
    assert distance(answers(case, again, inputs_for(case)), answers(case, model, inputs_for(case))) == 0.0


def test_an_imported_prefix_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    case = CASES["bert-classifier"]
    reference = trained_by_peft(case, tmp_path / "theirs")
    pt.save(pt.from_peft(case.make(), tmp_path / "theirs", name="theirs"), tmp_path / "ours", name="theirs")
    model = pt.load(case.make(), tmp_path / "ours")
    assert pt.prefixes(model) == ["theirs"]
    inputs = inputs_for(case)
    assert distance(answers(case, model, inputs), answers(case, reference, inputs)) <= CLOSE


def test_neither_way_needs_peft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    case = CASES["gpt2"]
    model = trained_here(case)
    pt.to_peft(model, tmp_path)
    again = pt.from_peft(case.make(), tmp_path)
    assert distance(answers(case, again, inputs_for(case)), answers(case, model, inputs_for(case))) == 0.0
