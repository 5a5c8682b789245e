"""Generation in batches: a prompt that is read once for all its beams, against transformers' own beam search."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import zoo
from test_contract import leave_start

import prefixtune as pt
from prefixtune.tasks import Decoding
from prefixtune.tasks.decoding import read_once

DECODERS = [architecture for architecture in zoo.ARCHITECTURES if architecture.kind == "decoder"]
PREFIXES: dict[str, Any] = {
    "bare": None,
    "p_tuning_v2": pt.PTuningV2(length=3),
    "token": pt.AdaptivePrefix(length=3, gate_input="token", token_gate_std=0.5),
    "first": pt.AdaptivePrefix(length=3, gate_input="first", token_gate_std=0.5),
}
BEAMS = 3


def beam_search(model: Any, inputs: dict[str, torch.Tensor], cache: Any) -> torch.Tensor:
    given = {} if cache is None else {"past_key_values": cache}
    return model.generate(
        **inputs, **given, num_beams=BEAMS, do_sample=False, max_new_tokens=6, pad_token_id=zoo.PAD,
        eos_token_id=None,
    )  # fmt: skip


def with_prefix(model: Any, kind: str) -> Any:
    if PREFIXES[kind] is not None:
        pt.attach(model, PREFIXES[kind])
        leave_start(model)
    return model.eval()


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize("architecture", DECODERS, ids=lambda architecture: architecture.name)
def test_a_prompt_read_once_for_all_beams_gives_the_answers_of_plain_beam_search(
    architecture: zoo.Architecture, kind: str
) -> None:
    model = with_prefix(architecture.make(), kind)
    inputs = zoo.pad(zoo.inputs_for(architecture, length=9), "left", 2)
    with torch.no_grad():
        cache = read_once(model, inputs["input_ids"], inputs["attention_mask"], Decoding(beams=BEAMS))
        found = beam_search(model, inputs, cache)
        assert torch.equal(found, beam_search(model, inputs, None))


@pytest.mark.parametrize(
    "wanted", [{"use_cache": False}, {"cache_implementation": "static"}, {"cache_implementation": "dynamic"}], ids=str
)
def test_beams_are_those_of_plain_beam_search_whatever_cache_the_model_asks_for(wanted: dict[str, Any]) -> None:
    architecture = zoo.BY_NAME["llama"]
    model = with_prefix(architecture.make(), "p_tuning_v2")
    inputs = zoo.pad(zoo.inputs_for(architecture, length=9), "left", 2)
    with torch.no_grad():
        plain = beam_search(model, inputs, None)
        for name, value in wanted.items():
            setattr(model.generation_config, name, value)
        cache = read_once(model, inputs["input_ids"], inputs["attention_mask"], Decoding(beams=BEAMS))
        assert torch.equal(beam_search(model, inputs, cache), plain)


def test_every_row_keeps_its_own_prefix_when_its_prompt_is_read_once() -> None:
    model = with_prefix(zoo.BY_NAME["llama"].make(), "first")
    pt.attach(model, pt.PTuningV2(length=5), name="other")
    inputs = zoo.inputs_for(zoo.BY_NAME["llama"])
    with torch.no_grad(), pt.using(model, ["other", "default"]):
        cache = read_once(model, inputs["input_ids"], inputs["attention_mask"], Decoding(beams=BEAMS))
        assert torch.equal(beam_search(model, inputs, cache), beam_search(model, inputs, None))


def test_prompts_are_read_by_as_many_rows_as_there_are_prompts() -> None:
    model = with_prefix(zoo.BY_NAME["llama"].make(), "p_tuning_v2")
    inputs, tokens = zoo.inputs_for(zoo.BY_NAME["llama"], length=9), []
    handle = model.model.layers[0].mlp.register_forward_hook(
        lambda module, args, out: tokens.append(out[..., 0].numel())
    )
    with torch.no_grad():
        cache = read_once(model, inputs["input_ids"], inputs["attention_mask"], Decoding(beams=BEAMS))
        beam_search(model, inputs, cache)
    handle.remove()
    assert tokens[:2] == [2 * 8, 2 * BEAMS]


@pytest.mark.parametrize(
    ("beams", "length", "name"), [(1, 9, "llama"), (BEAMS, 1, "llama"), (BEAMS, 9, "bart")], ids=str
)
def test_nothing_is_read_ahead_where_it_would_not_help_or_not_be_the_same(beams: int, length: int, name: str) -> None:
    architecture = zoo.BY_NAME[name]
    inputs = zoo.inputs_for(architecture, length=length)
    with nullcontext() if beams == 1 else torch.no_grad():
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert read_once(architecture.make(), ids, mask, Decoding(beams=beams)) is None
