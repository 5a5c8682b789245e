"""Starts from text that is longer than the model's positions, or that repeated is: as the model's own cache has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_cli import refused
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

import prefixtune as pt
from prefixtune.errors import ConfigError
from prefixtune.prefix import Method

POSITIONS = 64
BYTES, LETTERS = tiny.byte_tokenizer(), tiny.letter_tokenizer()
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def words(count: int) -> str:
    """A text of so many letters, with nothing between them: so many tokens."""
    return (ALPHABET * count)[:count]


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(BYTES), bos_token_id=None, eos_token_id=0, **shape)).eval()


def bert(kind: Any = BertModel, config: Any = BertConfig, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"initializer_range": 0.3, "max_position_embeddings": POSITIONS}
    return kind(config(vocab_size=len(LETTERS), **(shape | options))).eval()


def started(model: PreTrainedModel, method: Method, tokenizer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys and values `[G, P, D]` that the prefix starts with, by slot."""
    prefix = pt.attach(model, method, tokenizer=tokenizer).prefixtune.get("default")
    return {name: prefix.keys_values(slot) for name, slot in prefix.slots.items()}


def cached(ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values `[G, n, D]` of GPT-2's own cache after it has read `ids`, a pair a layer."""
    with torch.no_grad():
        cache = gpt2()(input_ids=ids, use_cache=True).past_key_values
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def projected(ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What the projections of BERT make of `ids`, in heads, a pair a layer."""
    model, found = bert(), {}
    for number, layer in enumerate(model.encoder.layer):
        for name in ("key", "value"):
            projection = getattr(layer.attention.self, name)
            projection.register_forward_hook(lambda m, i, out, at=(number, name): found.update({at: out[0]}))
    with torch.no_grad():
        model(input_ids=ids)
    heads = {at: out.unflatten(-1, (4, 8)).transpose(0, 1) for at, out in found.items()}
    return [(heads[number, "key"], heads[number, "value"]) for number in range(2)]


def compare(found: dict[str, tuple[Tensor, Tensor]], site: str, expected: list[tuple[Tensor, Tensor]], P: int) -> None:
    assert len(found) == len(expected) == 2
    for number, (key, value) in enumerate(expected):
        ours = found[f"{site}.{number}"]
        torch.testing.assert_close(ours[0].detach(), key[:, :P], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours[1].detach(), value[:, :P], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "count", "P"),
    [
        (pt.Cartridge(text=words(100), length=4), 100, 4),
        (pt.PTuningV2(length=4, init=f"text:{words(100)}"), 100, 4),
        (pt.PTuningV2(length=4, init=f"text:{words(40)}"), 40, 4),
        (pt.PTuningV2(length=50, init=f"text:{words(49)}"), 49, 50),
        (pt.PTuningV2(length=50, init=f"text:{words(3)}"), 3, 50),
    ],
)
def test_a_decoder_starts_as_its_cache_of_the_first_tokens_however_long_the_text(
    method: Method, count: int, P: int
) -> None:
    ids = BYTES(words(count), return_tensors="pt").input_ids
    assert ids.shape[1] == count
    expected = cached(ids.repeat(1, 50)[:, :P])
    compare(started(gpt2(), method, BYTES), "decoder", expected, P)


@pytest.mark.parametrize(("count", "P", "read"), [(40, 4, 40), (64, 4, 64), (20, 50, 60), (49, 50, 64)])
def test_an_encoder_reads_the_whole_text_and_repeated_what_there_are_positions_for(
    count: int, P: int, read: int
) -> None:
    ids = LETTERS(words(count), add_special_tokens=False, return_tensors="pt").input_ids
    assert ids.shape[1] == count
    expected = projected(ids.repeat(1, 3)[:, :read])
    compare(started(bert(), pt.PTuningV2(length=P, init=f"text:{words(count)}"), LETTERS), "encoder", expected, P)


def test_a_text_that_an_encoder_has_no_positions_for_is_refused_with_both_numbers() -> None:
    model = bert()
    with pytest.raises(ConfigError, match="takes 65 positions, but BertModel has 64; expected a shorter text"):
        pt.attach(model, pt.PTuningV2(length=4, init=f"text:{words(65)}"), tokenizer=LETTERS)
    assert pt.prefixes(model) == []


def test_the_rows_that_robertas_table_keeps_for_itself_are_no_positions() -> None:
    model = bert(RobertaModel, RobertaConfig, pad_token_id=0)  # the first token is at 1
    with pytest.raises(ConfigError, match="takes 64 positions, but RobertaModel has 63"):
        pt.attach(model, pt.PTuningV2(length=4, init=f"text:{words(64)}"), tokenizer=LETTERS)
    pt.attach(model, pt.PTuningV2(length=4, init=f"text:{words(63)}"), tokenizer=LETTERS)


def test_a_text_that_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.jsonl(tmp_path / "classes.jsonl", tiny.first_letter(8))
    base = tiny.encoder(tmp_path / "bert")
    argv = ["train", "--model", base, "--task", "classification", "--train", data, "--method", "p_tuning_v2",
            "--length", "4", "--init", f"text:{words(300)}", "--output", str(tmp_path / "out")]  # fmt: skip
    assert "takes 300 positions, but BertForSequenceClassification has 64" in refused(argv, capsys)
