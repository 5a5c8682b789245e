"""Marked spans, choices and answers to questions: what the heads read, whose head reads it, and what bad rows say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import zoo
from transformers import AutoModel, PreTrainedModel

import prefixtune as pt
from prefixtune import evaluation, tasks
from prefixtune.bank import bank_of
from prefixtune.cli import main
from prefixtune.errors import CheckpointError, ConfigError, DataError, ModelError
from prefixtune.evaluation import Loaded
from prefixtune.probe.reading import read_gates
from prefixtune.tasks import Table, Task, Window
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.readouts import choice_model, span_model
from prefixtune.tasks.task import batch_logits, batches_by_length
from prefixtune.training.bench import Bench, read_data
from prefixtune.training.config import RunConfig
from prefixtune.training.trainer import build_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

WORDS = [
    {"text": "abc", "spans": [[1, 3]], "text_pair": "wxyz", "spans_pair": [[0, 1]], "label": "same"},
    {"text": "dd", "spans": [[0, 1]], "text_pair": "abcdw", "spans_pair": [[3, 5]], "label": "other"},
    {"text": "xyzabcd", "spans": [[2, 5]], "text_pair": "a", "spans_pair": [[0, 1]], "label": "same"},
]
PICKS = [
    {"text": "ab", "choices": ["cd", "wxyz"], "label": 0},
    {"text": "wxyza", "choices": ["a", "bcd"], "label": 1},
    {"text": "z", "choices": ["wwwwww", "aa"], "label": 1},
]
TEXTS = [a for a in zoo.ARCHITECTURES if a.kind in ("encoder", "decoder") and not a.make().config.is_encoder_decoder]


def table(rows: list[dict[str, Any]]) -> Table:
    return Table("data", rows, list(range(1, len(rows) + 1)))


def marked_letters(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`low` when the marked letter is of a to d, whatever stands around it."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        text = "".join(draw.choice("abcdwxyz") for _ in range(2))
        place = draw.randrange(2)
        rows.append({"text": text, "spans": [[place, place + 1]], "label": "low" if text[place] <= "d" else "high"})
    return rows


def low_choices(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The right choice is of letters a to d."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        texts = [draw.choice("abcd") * draw.randint(1, 4), draw.choice("wxyz") * draw.randint(1, 4)]
        right = draw.randrange(2)
        rows.append({"text": "k", "choice1": texts[right], "choice2": texts[1 - right], "label": right})
    return rows


DATA = {"spans": marked_letters, "choice": low_choices}


def loaded(kind: str, rows: list[dict[str, Any]], folder: str) -> tuple[Task, PreTrainedModel, Any, list[Any]]:
    """A task, its model and tokenizer, and the features of `rows`."""
    task = tasks.find(kind).learn(table(rows))
    model, tokenizer = load_base(folder, task)
    features = task.features(task.prepared(table(rows)), model, tokenizer, window(model, tokenizer, 0))
    return task, model, tokenizer, features


def logits_of(task: Task, model: PreTrainedModel, tokenizer: Any, features: list[dict[str, Any]]) -> torch.Tensor:
    """The logits of one batch, in the order of the features."""
    ((order, logits, _),) = batch_logits(model, features, task.collator(model, tokenizer), len(features))
    return logits[torch.tensor(order).argsort()]


# --- what the heads read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "summary"), [(tiny.encoder, 0), (tiny.llama, -1)])
def test_spans_read_the_summary_and_the_mean_state_of_each_span(tmp_path: Path, make: Any, summary: int) -> None:
    rows = [{**row, "text_pair": None, "spans_pair": None} for row in WORDS]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    folder = make(tmp_path)
    task, model, tokenizer, features = loaded("spans", rows, folder)
    body = AutoModel.from_pretrained(folder).eval()
    head = model.get_submodule("readout")
    for row, logits in zip(rows, logits_of(task, model, tokenizer, features), strict=True):
        ids = tokenizer(row["text"])["input_ids"]
        letters = tokenizer.convert_ids_to_tokens(ids)
        first = letters.index(row["text"][0])  # one token a letter, behind [CLS] where there is one
        start, end = (place + first for place in row["spans"][0])
        with torch.no_grad():
            states = body(torch.tensor([ids])).last_hidden_state[0]
            expected = head(torch.cat([states[summary], states[start:end].mean(0)]))
        assert torch.allclose(logits, expected, atol=1e-5)


def test_spans_of_the_second_text_are_found_in_the_second_text(tmp_path: Path) -> None:
    task, _, tokenizer, features = loaded("spans", WORDS, tiny.encoder(tmp_path))
    assert isinstance(task, tasks.find("spans"))
    for row, feature in zip(WORDS, features, strict=True):
        letters = tokenizer.convert_ids_to_tokens(feature["input_ids"])
        read = ["".join(letters[start:end]) for start, end in feature["spans"]]
        ((a, b),), ((c, d),) = row["spans"], row["spans_pair"]
        assert read == [row["text"][a:b], row["text_pair"][c:d]]


@pytest.mark.parametrize(("make", "summary"), [(tiny.encoder, 0), (tiny.llama, -1)])
def test_each_choice_is_scored_by_the_state_of_its_own_text(tmp_path: Path, make: Any, summary: int) -> None:
    folder = make(tmp_path)
    task, model, tokenizer, features = loaded("choice", PICKS, folder)
    body, head = AutoModel.from_pretrained(folder).eval(), model.get_submodule("readout")
    for row, logits in zip(PICKS, logits_of(task, model, tokenizer, features), strict=True):
        for choice, logit in zip(row["choices"], logits, strict=True):
            with torch.no_grad():
                states = body(**tokenizer(row["text"], choice, return_tensors="pt")).last_hidden_state[0]
                assert torch.allclose(logit, head(states[summary])[0], atol=1e-5)


@pytest.mark.parametrize(("kind", "rows"), [("spans", WORDS), ("choice", PICKS)])
def test_padding_changes_nothing(tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    task, model, tokenizer, features = loaded(kind, rows, tiny.encoder(tmp_path))
    together = logits_of(task, model, tokenizer, features)
    alone = torch.cat([logits_of(task, model, tokenizer, [feature]) for feature in features])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("architecture", TEXTS, ids=lambda a: a.name)
def test_any_checkpoint_loads_and_a_prefix_reaches_all_of_it(tmp_path: Path, architecture: zoo.Architecture) -> None:
    """Also from a checkpoint with a language-model head, whose weights have the family's prefix in their names."""
    original = architecture.make()
    original.save_pretrained(tmp_path)
    inputs = zoo.inputs_for(architecture)
    with torch.no_grad():
        expected = original.base_model(**inputs)[0]
    for kind in (span_model(original.config, 2), choice_model(original.config)):
        model, report = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert {key.partition(".")[0] for key in report["missing_keys"]} == {"readout"}
        with torch.no_grad():
            assert torch.allclose(model.base_model.eval()(**inputs)[0], expected, atol=1e-5)
        pt.attach(model, pt.PTuningV2(length=3))
        assert list(bank_of(model).heads_of("default")) == ["readout"]


# --- whose head reads it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rows"), [("spans", WORDS), ("choice", PICKS)])
def test_a_mixed_batch_is_each_row_under_its_own_prefix_and_head(
    tmp_path: Path, kind: str, rows: list[dict[str, Any]]
) -> None:
    task, model, tokenizer, features = loaded(kind, rows, tiny.encoder(tmp_path))
    for name, length in (("a", 2), ("b", 5)):
        pt.attach(model, pt.AdaptivePrefix(length=length), name=name)
        with torch.no_grad():
            for parameter in [*bank_of(model).get(name).parameters(), *bank_of(model).heads_of(name).parameters()]:
                parameter.normal_()
    names = ["b", None, "a"]
    apart = []
    for name, feature in zip(names, features, strict=True):
        with pt.using(model, name):
            apart.append(logits_of(task, model, tokenizer, [feature])[0])
    collate = task.collator(model, tokenizer)
    batch = {key: value for key, value in collate(features).items() if key != "labels"}
    with pt.using(model, names), torch.no_grad():
        together = model.eval()(**batch).logits
    assert torch.allclose(together, torch.stack(apart), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("kind", DATA)
def test_a_run_learns_and_evaluate_finds_its_numbers(tmp_path: Path, kind: str, capsys: Any) -> None:
    draws = (("train", 1), ("eval", 2))
    files = {role: tiny.jsonl(tmp_path / f"{role}.jsonl", DATA[kind](128, seed)) for role, seed in draws}
    model, output = tiny.encoder(tmp_path / "bert"), tmp_path / "out"
    argv = ["--model", model, "--task", kind, "--method", "adaptive", "--length", "3", "--lr", "0.03"]
    argv += ["--no-base-dropout"]
    argv += ["--train", files["train"], "--eval", files["eval"], "--epochs", "12", "--batch-size", "16"]
    assert main(["train", *argv, "--output", str(output)]) == 0
    found = json.loads((output / "metrics.json").read_text())
    assert found["eval"]["accuracy"] > 0.9
    capsys.readouterr()
    assert main(["evaluate", "--model", model, "--prefix", str(output), "--data", files["eval"]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == pytest.approx({key: found["eval"][key] for key in again}, rel=1e-5)


def test_a_prefix_of_one_span_is_not_loaded_into_a_model_of_two(tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path / "bert")
    _, model, _, _ = loaded("spans", marked_letters(4), folder)
    pt.attach(model, pt.PTuningV2(length=2))
    pt.save(model, tmp_path / "one")
    _, other, _, _ = loaded("spans", WORDS, folder)
    with pytest.raises(CheckpointError, match=r"'readout.weight' is \(2, 64\) in the file and \(2, 96\)"):
        pt.load(other, tmp_path / "one")


def test_gates_of_an_example_are_the_mean_over_its_choices(tmp_path: Path) -> None:
    task, model, tokenizer, features = loaded("choice", PICKS, tiny.encoder(tmp_path))
    pt.attach(model, pt.AdaptivePrefix(length=3))
    with torch.no_grad():
        for name, parameter in bank_of(model).get("default").named_parameters():
            if "gate" in name:
                parameter.normal_()
    with_task = Loaded(model, tokenizer, {"default": task}, {}, Window())
    reading = read_gates(with_task, "default", task.prepared(table(PICKS)))
    expected = []
    for row in PICKS:
        for choice in row["choices"]:  # one text at a time, without padding
            (gate,) = pt.gates(model, **_as_one_choice(tokenizer(row["text"], choice, return_tensors="pt"))).values()
            expected.append(gate[0].double())
    (site,) = reading.overall.sites.values()
    assert torch.allclose(torch.as_tensor(site.gate).double(), torch.stack(expected).mean(0), atol=1e-6)


def _as_one_choice(encoded: Any) -> dict[str, torch.Tensor]:
    return {key: value[:, None] for key, value in encoded.items()}


# --- answers to questions ----------------------------------------------------------------------------------------

QUESTIONS = [
    {"text": "p", "text_pair": "q a", "question_id": 1, "label": 1},
    {"text": "p", "text_pair": "q b", "question_id": 1, "label": 0},
    {"text": "p", "text_pair": "r c", "question_id": 2, "label": 1},
    {"text": "p", "text_pair": "r d", "question_id": 2, "label": 1},
]


def test_answers_to_questions_are_scored_as_multirc_scores_them() -> None:
    task = tasks.find("classification").learn(table(QUESTIONS))
    prepared = task.prepared(table(QUESTIONS))
    assert task.score(["1", "0", "1", "0"], prepared) == pytest.approx(
        {"f1a": 2 * 2 / (3 + 2), "exact_match": 1 / 2, "accuracy": 3 / 4}
    )
    assert task.score(["0", "0", "0", "0"], prepared)["f1a"] == 0.0
    assert task.chooses == "f1a"
    with pytest.raises(DataError, match="'question_id'.*expected two labels, or no such column"):
        tasks.find("classification").learn(table([*QUESTIONS, {**QUESTIONS[0], "label": 2}]))
    with pytest.raises(DataError, match="no column 'question_id'"):
        task.prepared(table([{k: v for k, v in row.items() if k != "question_id"} for row in QUESTIONS]))


# --- bad rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spans": [[2, 9]]}, r"data, line 2, spans: the span \[2, 9\] does not lie within the 2 characters"),
        ({"spans": [[1, 1]]}, "does not lie within"),
        ({"spans": [["a", 1]]}, "is no span; expected .start, end., two whole numbers"),
        ({"spans": "[[0, 1]"}, "is no JSON list"),
        ({"spans": 3}, "expected a list of .start, end."),
        ({"spans": [[0, 1], [1, 2]]}, "line 2: 3 spans are marked where the training data mark 2"),
        ({"label": "some"}, "line 2: the label 'some' was not seen in training; did you mean 'same'"),
        ({"text_pair": None}, "line 2: no value for the column 'text_pair'"),
    ],
)
def test_a_bad_row_of_spans_is_named(change: dict[str, Any], complaint: str) -> None:
    task = tasks.find("spans").learn(table(WORDS))
    with pytest.raises(DataError, match=complaint):
        task.prepared(table([WORDS[0], {**WORDS[1], **change}]))


def test_spans_in_a_csv_field_are_json() -> None:
    rows = [{**row, "spans": json.dumps(row["spans"])} for row in WORDS]
    task = tasks.find("spans").learn(table(rows))
    assert task.prepared(table(rows)).rows == task.prepared(table(WORDS)).rows


def test_a_span_that_was_cut_off_is_an_error_and_not_a_guess(tmp_path: Path) -> None:
    rows = table([{"text": "abcdabcd", "spans": [[6, 8]], "label": label} for label in "xy"])
    task = tasks.find("spans").learn(rows)
    model, tokenizer = load_base(tiny.encoder(tmp_path), task)
    with pytest.raises(DataError, match="data, line 1: a span has no token among the 5 that there is room for"):
        task.features(task.prepared(rows), model, tokenizer, Window(max_length=5))


def test_spans_without_a_mark_or_a_second_label_are_named() -> None:
    with pytest.raises(DataError, match="line 1: no span is marked"):
        tasks.find("spans").learn(table([{**row, "spans": [], "spans_pair": []} for row in WORDS]))
    with pytest.raises(DataError, match="only the label 'same'"):
        tasks.find("spans").learn(table(WORDS[:1]))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"choices": ["a"]}, "line 2: 1 choices; expected at least two"),
        ({"choices": ["a", "b", "c"]}, "line 2: 3 choices where the training data have 2"),
        ({"choices": "[1, 2"}, "no JSON list of choices"),
        ({"choices": {"a": 1}}, "expected a list of texts to choose from"),
        ({"choices": None}, "no choices; expected a list in the column `choices`, or columns `choice1`"),
        ({"label": 2}, r"line 2: the label 2 is no number of a choice; expected 0 \(the first\) to 1"),
        ({"label": True}, "the label True is no number"),
        ({"label": "aa"}, "the label 'aa' is no number"),
    ],
)
def test_a_bad_row_of_choices_is_named(change: dict[str, Any], complaint: str) -> None:
    task = tasks.find("choice").learn(table(PICKS))
    with pytest.raises(DataError, match=complaint):
        task.prepared(table([PICKS[0], {**PICKS[1], **change}]))


def test_choices_in_columns_of_their_own_are_the_same_as_a_list() -> None:
    apart = [
        {"text": row["text"], "choice2": row["choices"][1], "choice1": row["choices"][0], "label": str(row["label"])}
        for row in PICKS
    ]
    task = tasks.find("choice").learn(table(apart))
    assert task.prepared(table(apart)).rows == PICKS


def test_an_encoder_decoder_is_refused_with_the_reason(tmp_path: Path) -> None:
    task = tasks.find("choice").learn(table(PICKS))
    with pytest.raises(ModelError, match="encoder-decoder; its text has no one summary"):
        load_base(tiny.encoder_decoder(tmp_path), task)


def test_prefixes_of_different_forms_are_not_loaded_together(tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path / "bert")
    for kind, rows in (("spans", WORDS), ("choice", PICKS)):
        task, model, _, _ = loaded(kind, rows, folder)
        pt.attach(model, pt.PTuningV2(length=2))
        pt.save(model, tmp_path / kind, metadata={"task": task.metadata()})
    with pytest.raises(ConfigError, match="prefixes of different tasks need different model heads"):
        evaluation.load(folder, {kind: str(tmp_path / kind) for kind in ("spans", "choice")})


def test_examples_of_several_choices_are_batched_by_their_longest_text(tmp_path: Path) -> None:
    """In training and in evaluation: the number of choices, which all examples share, tells nothing."""
    rows = [{**row, "text": "k" * (1 + 7 * index % 40)} for index, row in enumerate(low_choices(64))]
    folder, data = tiny.encoder(tmp_path / "bert"), tiny.jsonl(tmp_path / "train.jsonl", rows)
    run = RunConfig(model=folder, task="choice", train=data, method="p_tuning_v2", output="x", batch_size=2)
    task, split = read_data(run)
    model, tokenizer = load_base(folder, task)
    pt.attach(model, pt.PTuningV2(length=2))
    bench = Bench(model, tokenizer, task, split, window(model, tokenizer, 2), tasks.Decoding(), batch_size=2)
    trainer = build_trainer(run, bench, None)
    lengths = [max(map(len, feature["input_ids"])) for feature in trainer.train_dataset]

    def padding(order: list[int]) -> int:
        batches = [[lengths[i] for i in order[start : start + 2]] for start in range(0, 64, 2)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    for order in (list(trainer._get_train_sampler()), sum(batches_by_length(trainer.train_dataset, 2), [])):
        assert lengths[order[0]] == max(lengths) and padding(order) < padding(list(range(64))) / 2
