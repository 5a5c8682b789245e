"""What answers, warnings and scores may depend on: never on the batch, the neighbour or the order of the prefixes."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_training import config, method

from prefixtune import evaluation, tasks
from prefixtune.cli import main
from prefixtune.errors import ConfigError
from prefixtune.reproduce import derive
from prefixtune.tasks import Decoding, Table
from prefixtune.tasks.decoding import generate
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.task import tell_once
from prefixtune.training import results
from prefixtune.training.run import train

LENGTHS = (2, 5, 9, 14, 20, 33, 47, 60)


def table(*rows: dict[str, Any], name: str = "data") -> Table:
    return Table(name, list(rows), list(range(1, len(rows) + 1)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.decoder(tmp_path_factory.mktemp("gpt2"), initializer_range=0.3)


@pytest.fixture(autouse=True)
def told_anew() -> None:
    """A warning that another test was given counts here, too."""
    tell_once.cache_clear()


def prefix(folder: Path, model: str, rows: list[dict[str, Any]] | None = None, **options: Any) -> str:
    """A prefix for text to text, hardly trained."""
    folder.mkdir(parents=True)
    run = config(folder, "text2text", model, **{"max_steps": 1, "eval": None, "test": None, **options})
    tiny.jsonl(Path(run.train), rows or tiny.doubled(8))
    train(run, method("p_tuning_v2", length=3))
    return run.output


def prompts() -> list[str]:
    return [chr(97 + place) * length for place, length in enumerate(LENGTHS)]


def generated(argv: list[str], output: Path) -> list[dict[str, str]]:
    assert main(["generate", *argv, "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


# --- batches -----------------------------------------------------------------------------------------------------


def test_an_answer_is_the_same_in_every_batch(tmp_path: Path, gpt2: str) -> None:
    rows = table(*({"source": source, "target": "x"} for source in prompts()))
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(gpt2, task)
    room, long = window(model, tokenizer, 0), Decoding(max_new_tokens=128)
    found = [
        task.predict(model, tokenizer, rows, room, batch_size=size, decoding=long, answered=True).answers
        for size in (1, 4, 32)
    ]
    assert found[0] == found[1] == found[2]


def test_a_short_prompt_leaves_more_than_half_of_the_positions_to_its_answer(tmp_path: Path) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), tasks.find("text2text")())
    room, long = window(model, tokenizer, 0), Decoding(max_new_tokens=80)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    tokenizer.pad_token = "a"
    (answer, cut) = generate(model.eval(), tokenizer, [[40] * 5, [41] * 60], room, long, 2)
    with torch.no_grad():
        out = [model.generate(torch.tensor([[40] * 5]), max_new_tokens=80, do_sample=False, pad_token_id=5)[0, 5:]]
        out += [model.generate(torch.tensor([[41] * 60]), max_new_tokens=36, do_sample=False, pad_token_id=5)[0, 60:]]
    assert [answer, cut] == [text.strip() for text in tokenizer.batch_decode(out)]


def test_an_answer_of_an_ensemble_is_the_same_in_every_batch(tmp_path: Path, gpt2: str) -> None:
    loaded = evaluation.load(gpt2, {"one": prefix(tmp_path / "one", gpt2), "two": prefix(tmp_path / "two", gpt2)})
    ids = loaded.tokenizer(prompts())["input_ids"][:5]
    long = Decoding(max_new_tokens=128)
    found = [derive.generate(loaded, ["one", "two"], ids, long, batch_size=size) for size in (2, 32)]
    assert found[0] == found[1]


# --- sources that were cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny.decoder, tiny.encoder_decoder])
def test_the_development_loss_of_cut_sources_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    rows = table({"source": "a" * 500, "target": "b"}, {"source": "a", "target": "b"}, name="dev")
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(make(tmp_path), task)
    room = window(model, tokenizer, 0)
    task.predict(model, tokenizer, rows, room, batch_size=2, decoding=Decoding(), answered=False)
    assert "dev: 1 of 2 sources are longer than there is room for and are cut" in caplog.text


def test_only_sources_that_were_cut_are_counted_in_training(
    tmp_path: Path, gpt2: str, caplog: pytest.LogCaptureFixture
) -> None:
    targets = {"target": "long enough to fill it"}
    prefix(tmp_path / "none", gpt2, [{"source": "ab", **targets}] * 4, max_length=4)
    assert "cut" not in caplog.text
    prefix(tmp_path / "one", gpt2, [{"source": "ab", **targets}] * 3 + [{"source": "abcde", **targets}], max_length=4)
    assert "train.jsonl: 1 of 4 sources are longer than there is room for and are cut" in caplog.text


# --- several prefixes --------------------------------------------------------------------------------------------


def test_every_prefix_is_asked_and_answers_as_it_was_trained(tmp_path: Path, gpt2: str) -> None:
    one = prefix(tmp_path / "one", gpt2, max_new_tokens=3)
    two = prefix(tmp_path / "two", gpt2, max_new_tokens=7, max_length=4, separator=" = ")
    tiny.jsonl(tmp_path / "in.jsonl", [{"source": "abcdefghij"}, {"source": "xyzxyz"}])
    ask = ["--input", str(tmp_path / "in.jsonl")]
    for changes in ([], ["--max-new-tokens", "5"]):
        alone = [
            [row[name] for row in generated([*ask, "--prefix", f"{name}={folder}", *changes], tmp_path / "a.jsonl")]
            for name, folder in (("one", one), ("two", two))
        ]
        for order in ([f"one={one}", f"two={two}"], [f"two={two}", f"one={one}"]):
            rows = generated([*ask, "--prefix", *order, *changes], tmp_path / "b.jsonl")
            assert [[row[name] for row in rows] for name in ("one", "two")] == alone


def test_prompts_of_a_file_are_read_as_training_read_them(
    tmp_path: Path, gpt2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prefix(tmp_path / "one", gpt2, [{"mr": "a", "target": "b"}] * 4, columns={"source": "mr"})
    tiny.jsonl(tmp_path / "in.jsonl", [{"mr": ["a b", "c"]}])
    argv = ["--prefix", f"one={folder}", "--max-new-tokens", "2", "--input", str(tmp_path / "in.jsonl")]
    assert [row["source"] for row in generated(argv, tmp_path / "out.jsonl")] == ["a b c"]
    tiny.jsonl(tmp_path / "in.jsonl", [{"mr": {"a": 1}}])
    assert main(["generate", *argv]) == 2
    assert 'in.jsonl, line 1: expected a text, got {"a": 1}' in capsys.readouterr().err


# --- the type of the base's weights ------------------------------------------------------------------------------


def test_the_weights_are_of_the_type_that_training_had_them_in(tmp_path: Path, gpt2: str) -> None:
    folder = prefix(tmp_path / "one", gpt2, dtype="bfloat16")
    assert evaluation.load(None, {"one": folder}).model.dtype == torch.bfloat16
    assert evaluation.load(None, {"one": folder}, dtype="float32").model.dtype == torch.float32


def test_evaluate_finds_the_numbers_of_a_bfloat16_run(
    tmp_path: Path, gpt2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.jsonl(tmp_path / "dev.jsonl", tiny.doubled(8, 1))
    folder = prefix(tmp_path / "one", gpt2, dtype="bfloat16", eval=data, max_new_tokens=4)
    capsys.readouterr()
    assert main(["evaluate", "--prefix", folder, "--data", data]) == 0
    assert json.loads(capsys.readouterr().out) == results.read_metrics(Path(folder))["eval"]


def test_a_prefix_that_names_no_type_is_loaded_as_before_and_two_types_are_refused(tmp_path: Path, gpt2: str) -> None:
    one, two = prefix(tmp_path / "one", gpt2, dtype="bfloat16"), prefix(tmp_path / "two", gpt2, dtype="float32")
    with pytest.raises(ConfigError, match=r"of different types \(one: bfloat16, two: float32\); name one: --dtype"):
        evaluation.load(gpt2, {"one": one, "two": two})
    header = Path(two) / "prefix_config.json"
    stored = json.loads(header.read_text())
    del stored["metadata"]["dtype"]
    header.write_text(json.dumps(stored))
    assert evaluation.load(gpt2, {"two": two}).model.dtype == torch.float32


# --- files that are written --------------------------------------------------------------------------------------


def test_no_file_is_written_twice_or_over_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, link = tmp_path / "over.jsonl", tmp_path / "link.jsonl"
    data.write_text("mine")
    link.symlink_to(data)
    evaluate = ["evaluate", "--prefix", "not read", "--data", str(data)]
    for argv in (
        [*evaluate, "--output", str(tmp_path / "x"), "--predictions", str(tmp_path / "y" / ".." / "x")],
        [*evaluate, "--predictions", str(data)],
        [*evaluate, "--output", str(link)],
        ["generate", "--prefix", "not read", "--input", str(data), "--output", str(data)],
    ):
        assert main(argv) == 2
        assert "expected another, or one would be lost" in capsys.readouterr().err
    assert data.read_text() == "mine"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    results.write_text(pipe, "scores")
    reader.join(timeout=5)
    assert read == ["scores"]
    assert pipe.is_fifo()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "scores"
    link.symlink_to(target)
    for text in ("new", "newer"):
        results.write_text(link, text)
        assert target.read_text() == text
        assert link.is_symlink()
