"""Faults that a second reading found: options of another kind, rows that say another thing than their file, captions
that were no run's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import refused
from test_reproduce import Fake, tiny_experiment
from test_training import config, method

from prefixtune import reproduce
from prefixtune.cli.options import parse_structured
from prefixtune.errors import ConfigError, DataError
from prefixtune.reproduce import runner, table
from prefixtune.reproduce.experiment import Trained
from prefixtune.reproduce.options import Options
from prefixtune.tasks import Table, find, read
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.task import HeadTask, Window, tell_once
from prefixtune.training import RunConfig, results
from prefixtune.training.run import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.place(tmp_path_factory.mktemp("place"))


def rows_of(*rows: dict[str, Any]) -> Table:
    return Table("data", list(rows), list(range(1, len(rows) + 1)))


# --- options -----------------------------------------------------------------------------------------------------

OTHER_KINDS = [
    ("beams", 1.5, "a whole number"), ("batch_size", 2.5, "a whole number"), ("batch_size", True, "a whole number"),
    ("gradient_accumulation", 1.5, "a whole number"), ("max_length", 20.5, "a whole number"),
    ("max_target_length", 2.5, "a whole number"), ("max_new_tokens", 2.5, "a whole number"),
    ("max_steps", "abc", "a whole number"), ("gradient_checkpointing", "maybe", "true or false"),
    ("base_dropout", 0.1, "true or false"), ("base_dropout", None, "true or false"),
    ("activation_cache", True, "a number"), ("weight_decay", True, "a number"), ("beams", None, "a whole number"),
    ("part_lr", 3, "names with values"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "kind"), OTHER_KINDS)
def test_a_run_takes_values_of_the_kind_that_its_options_are_declared_with(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}; expected {kind}"):
        RunConfig(model="m", task="tagging", train="t", method="full", output="o", **{name: value})


def test_a_number_of_a_sweep_is_a_number() -> None:
    settings = {"task": "tagging", "train": "t", "method": "full", "output": "o", "lr": np.float64(1e-3)}
    assert RunConfig(model="m", **settings).lr == 1e-3


@pytest.mark.parametrize(("name", "value", "kind"), OTHER_KINDS)
def test_a_recipe_takes_values_of_the_kind_that_training_takes(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"--recipe: {name} is {value!r}; expected {kind}"):
        Options(model="m", recipe={name: value})


def test_a_text_of_the_recipe_that_yaml_takes_for_nothing_is_told_how_to_be_written() -> None:
    with pytest.raises(ConfigError, match="""--recipe: report_to is None; expected a text, as in report_to='"none"'"""):
        Options(model="m", recipe={"report_to": None})
    given: dict[str, Any] = {"max_steps": None, "end_token": None, "epochs": 3, "activation_cache": 1}
    assert Options(model="m", recipe=given).changes() == given


@pytest.mark.parametrize("word", ["beams=1.5", "gradient_checkpointing=maybe", "max_steps=abc", "base_dropout=none"])
def test_a_recipe_of_another_kind_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    argv = ["--model", str(place / "gpt2"), "--data", f"e2e={place / 'e2e'}", "--output", str(tmp_path / "out")]
    line = refused(["reproduce", "prefix_tuning", *argv, "--corpora", "e2e", "--recipe", word], capsys)
    assert f"--recipe: {word.partition('=')[0]} is " in line
    assert not (tmp_path / "out").exists()


def test_numbers_of_a_recipe_may_have_exponents() -> None:
    """YAML takes 1e-2 for a word, which is no number."""
    words = "weight_decay=1e-2,clip=5.E-1,epochs=2E+0,separator=e1"
    given = parse_structured(words, "--recipe", single=False, mapping=True)
    assert given == {"weight_decay": 0.01, "clip": 0.5, "epochs": 2.0, "separator": "e1"}
    Options(model="m", recipe=given)


def test_what_is_given_as_an_option_and_in_the_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="--batch-size 8 and --recipe batch_size=4: expected one of the two"):
        Options(model="m", batch_size=8, recipe={"batch_size": 4})
    assert Options(model="m", quick=True, recipe={"beams": 4}).changes()["beams"] == 4  # of a smoke run, nobody's wish


@pytest.mark.parametrize("name", ["corpora", "methods", "data", "lengths"])
def test_a_list_that_is_given_twice_is_told_to_be_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{name}", "a=1", f"--{name}", "b=2"]
    line = refused(["reproduce", "apt", "--model", "m", *words], capsys)
    assert f"--{name} is given 2 times; expected once" in line and "A,B" in line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sizes": [4, 8, 4]}, "--sizes: 4 appears twice; expected each once"),
        ({"lengths": [2, 2]}, "--lengths: 2 appears twice; expected each once"),
        ({"lr": ["1e-3", 0.001]}, "--lr: 0.001 appears twice; expected each once"),
        ({"lr": {"FT": [1e-3], "APT": [0.1, 0.1]}}, "--lr: 0.1 appears twice; expected each once"),
    ],
)
def test_what_is_tried_or_drawn_twice_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Options(model="m", **given)


# --- files -------------------------------------------------------------------------------------------------------


def test_a_crlf_inside_a_quoted_field_keeps_its_two_characters(tmp_path: Path) -> None:
    text = 'text,spans,label\r\n"A\r\nriver bank","[[3, 8]]",x\r\n"A\nbank","[[2, 6]]",y\r\n"A\rbank","[[2, 6]]",y\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    found = read(str(tmp_path / "a.csv"))
    assert [row["text"] for row in found.rows] == ["A\r\nriver bank", "A\nbank", "A\rbank"]
    assert found.lines == [2, 4, 6]
    prepared = find("spans").learn(found).prepared(found)
    marked = [row["text"][slice(*row["spans"][0])] for row in prepared.rows]
    assert marked == ["river", "bank", "bank"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("form", "between"), [("csv", ","), ("tsv", "\t"), ("conll", " "), ("conll", "\t")])
def test_every_line_end_ends_a_row(tmp_path: Path, end: str, form: str, between: str) -> None:
    lines = [] if form == "conll" else [f"a{between}b"]
    path = tmp_path / f"a.{form}"
    path.write_bytes(end.join([*lines, f"1{between}2", f"3{between}4", ""]).encode())
    expected = [{"tokens": ["1", "3"], "tags": ["2", "4"]}] if form == "conll" else [
        {"a": "1", "b": "2"}, {"a": "3", "b": "4"},
    ]  # fmt: skip
    assert read(str(path)).rows == expected


@pytest.mark.parametrize("space", ["\u00a0", "\u0085", "\v", "\f", "\u2028", "\u2003"])
def test_words_of_columns_end_at_spaces_and_tabs_alone(tmp_path: Path, space: str) -> None:
    lines = [f"5{space}000 NUM  O", f"Ren{space}e\tB-PER", f"{space}\tO", f" x{space} \tO"]
    (tmp_path / "a.conll").write_text("\n".join(lines), encoding="utf-8")
    assert read(str(tmp_path / "a.conll")).rows == [
        {"tokens": [f"5{space}000", f"Ren{space}e", space, f"x{space}"], "tags": ["O", "B-PER", "O", "O"]}
    ]
    cell = {"tokens": f"5{space}000 apples", "tags": "O O"}
    assert find("tagging").learn(rows_of(cell)).prepared(rows_of(cell)).rows[0]["tokens"] == [f"5{space}000", "apples"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("task", "right", "broken"),
    [
        ("classification", {"text": "a", "text_pair": "b", "label": "x"}, {"text_pair": None}),
        ("text2text", {"source": "a", "target": "b"}, {"target": None}),
        ("choice", {"text": "a", "choices": ["b", "c"], "label": 0}, {"choices": ["b", None]}),
        ("spans", {"text": "a", "spans": [[0, 1]], "label": "x"}, {"text": None}),
        ("tagging", {"tokens": ["a", "b"], "tags": ["O", "B-X"]}, {"tokens": ["a", None]}),
    ],
)
def test_a_number_that_is_none_is_no_text(
    tmp_path: Path, task: str, right: dict[str, Any], broken: dict[str, Any], number: float
) -> None:
    holes = {key: [number if x is None else x for x in v] if v else number for key, v in broken.items()}
    other = right | ({"label": "y"} if right.get("label") == "x" else {})
    whole = read(tiny.jsonl(tmp_path / "a.jsonl", [right, other]))
    bad = read(tiny.jsonl(tmp_path / "b.jsonl", [right, other | holes]))
    with pytest.raises(DataError, match=rf"b\.jsonl, line 2: expected a text, got {json.dumps(number)}"):
        find(task).learn(whole).prepared(bad)


# --- rows without a token ----------------------------------------------------------------------------------------

EMPTY = [
    ("classification", {"text": "ab", "label": "x"}, {"text": "", "label": "y"}),
    ("classification", {"text": "ab", "text_pair": "", "label": "x"}, {"text": "", "text_pair": "", "label": "y"}),
    ("choice", {"text": "ab", "choices": ["c", ""], "label": 1}, {"text": "", "choices": ["c", ""], "label": 0}),
]


@pytest.mark.parametrize(("task", "right", "empty"), EMPTY)
def test_a_row_without_a_token_is_named_before_anything_is_trained(
    place: Path, task: str, right: dict[str, Any], empty: dict[str, Any]
) -> None:
    """GPT-2's tokenizer begins no text: the head would read a padding token's state, or no state at all."""
    data = rows_of(right, empty)
    learned = find(task).learn(data)
    assert isinstance(learned, HeadTask)
    model, tokenizer = load_base(str(place / "gpt2"), learned)
    with pytest.raises(DataError, match="data, line 2: the text is empty; expected at least one token"):
        learned.features(learned.prepared(data), model, tokenizer, Window(64))
    assert len(learned.features(learned.prepared(rows_of(right)), model, tokenizer, Window(64))) == 1
    model, tokenizer = load_base(str(place / "bert"), learned)  # its texts begin with [CLS], which the head reads
    assert len(learned.features(learned.prepared(data), model, tokenizer, Window(64))) == 2


@pytest.mark.parametrize("role", ["train", "eval", "test"])
def test_an_empty_text_of_any_file_leaves_no_run(place: Path, tmp_path: Path, role: str) -> None:
    asked = config(tmp_path, "classification", str(place / "gpt2"))
    with open(tmp_path / f"{role}.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "", "label": "low"}\n')
    with pytest.raises(DataError, match=rf"{role}\.jsonl, line \d+: the text is empty"):
        train(asked, method("p_tuning_v2"))
    assert not (tmp_path / "out" / results.RUN).exists()


# --- stray tags --------------------------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture, *rows: list[str]) -> tuple[str, list[str]]:
    """The scheme of rows with these tags, and what is said of them."""
    tell_once.cache_clear()
    caplog.clear()
    data = rows_of(*({"tokens": ["w"] * len(tags), "tags": tags} for tags in rows))
    with caplog.at_level(logging.WARNING, logger="prefixtune"):
        scheme = find("tagging").learn(data).metadata()["scheme"]
    return scheme, [record.getMessage() for record in caplog.records]


def test_a_stray_tag_among_marked_ones_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rows = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "0", "O"]]
    scheme, told = warnings_of(caplog, *rows)
    assert scheme == "none"
    assert told == [
        "data, line 2: the tag '0' has no mark of IOB, which 3 of 4 tags have: there is no F1 of entities, only "
        "accuracy; write O for what is none"
    ]
    scheme, told = warnings_of(caplog, ["U-A", "B-A", "L-A", "O"], ["X-A", "b-B", "O"])
    assert scheme == "none" and len(told) == 1 and "the tags 'X-A', 'b-B' have no mark of BILOU" in told[0]


@pytest.mark.parametrize(
    "tags", [["B-PER", "I-PER", "O"], ["S-A", "B-A", "E-A"], ["NOUN", "VERB", "-LRB-", "B-X"], ["O", "O"]]
)
def test_tags_of_one_scheme_or_of_none_are_passed_over(tags: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, tags)[1] == []


# --- captions ----------------------------------------------------------------------------------------------------


def found_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, **changes: Any
) -> runner.Findings:
    """An experiment whose runs are not trained and leave their records as those that are."""
    given = {name: changes.pop(name) for name in ("recipe",) if name in changes}
    arms = (Trained(name="FT", kind="full", recipe={"lr": 1e-3}),)
    shape = {"arms": lambda cell: arms, "corpora": (corpus,)}
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(**(shape | changes)))
    monkeypatch.setattr(runner, "fit", Fake())
    options = Options(model=str(place / ("gpt2" if corpus == "e2e" else "bert")), data=[str(place / corpus)], **given)
    return runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])


def test_the_caption_of_few_examples_says_what_each_run_had(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_in(place, tmp_path, monkeypatch, "conll04", sizes=(10, 20), subsets=2)
    assert (
        "Rows of conll04: each run drew from 40 to train on, from conll04_train.json, and 12 to choose by: with 10 "
        "examples 10 and 3, with 20 examples 20 and 6; 12 (test) to test on."
    ) in table.caption(found)


def test_where_draws_differ_in_rows_the_caption_has_the_least_and_the_most(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers to a question of MultiRC are one example."""
    found = found_in(place, tmp_path, monkeypatch, "conll04", sizes=(10,), subsets=2)
    record = tmp_path / "out/runs/conll04/10-examples/ft/subset-1-seed-42" / results.RECORD
    told = json.loads(record.read_text())
    told["data"]["train"]["rows"] = 1234
    record.write_text(json.dumps(told))
    assert any("with 10 examples 10 to 1,234 and 3;" in line for line in table.caption(found))


def test_the_caption_of_all_examples_says_what_was_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "Rows of conll04: 40 to train on, from conll04_train.json, 12 to choose by, 12 (test) to test on."
    assert told in table.caption(found_in(place, tmp_path, monkeypatch, "conll04"))


@pytest.mark.parametrize(("corpus", "generates"), [("e2e", True), ("conll04", False)])
def test_a_caption_has_options_of_generation_where_something_is_generated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, generates: bool
) -> None:
    found = found_in(place, tmp_path, monkeypatch, corpus, recipe={"beams": 3, "weight_decay": 0.5})
    told = [line for line in table.caption(found) if line.startswith(("Changed", "Recipe"))]
    assert ["beams 3" in line for line in told] == [generates] * 2
    assert all("weight_decay 0.5" in line for line in told)
