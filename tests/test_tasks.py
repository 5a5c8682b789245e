"""Readers and tasks: what comes out of a file, and what a model is trained on."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
import torch

from prefixtune import tasks
from prefixtune.errors import ConfigError, DataError, ModelError
from prefixtune.tasks import Decoding, Table, Window
from prefixtune.tasks.decoding import generate
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.task import IGNORED, batch_logits, token_losses

TEXTS = [
    {"text": 'a "quoted", line', "label": "yes"},
    {"text": "two\nlines", "label": "no"},
    {"text": "naïve ✓", "label": "yes"},
]
SENTENCES = [
    {"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-PER", "I-PER", "O"]},
    {"tokens": ["EU", "."], "tags": ["B-ORG", "O"]},
]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def table(rows: list[dict[str, Any]]) -> Table:
    return Table("data", rows, list(range(1, len(rows) + 1)))


# --- readers -----------------------------------------------------------------------------------------------------


def test_csv_is_read_as_the_datasets_library_reads_it(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.csv")
    datasets.Dataset.from_list(TEXTS).to_csv(path)
    theirs = datasets.load_dataset("csv", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert tasks.read(path).rows == theirs.to_list() == TEXTS


def test_jsonl_is_read_as_the_datasets_library_reads_it(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.jsonl")
    datasets.Dataset.from_list(SENTENCES).to_json(path)
    theirs = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert tasks.read(path).rows == theirs.to_list() == SENTENCES


def test_a_folder_is_read_as_a_data_set_and_its_class_labels_become_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    rows = [{"text": "a", "label": 1, "tags": [0, 1]}, {"text": "b", "label": 0, "tags": []}]
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    read = tasks.read(str(tmp_path / "set"), split="train")
    assert read.rows == [{"text": "a", "label": "yes", "tags": ["O", "B-X"]}, {"text": "b", "label": "no", "tags": []}]


def test_tsv_keeps_bare_quotation_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "rte.tsv", 'text\tlabel\nhe said "no\t1\n"x" is y\t0\n')
    assert tasks.read(path).rows == [{"text": 'he said "no', "label": "1"}, {"text": '"x" is y', "label": "0"}]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_conll_columns_are_the_word_first_and_the_tag_last(tmp_path: Path, separator: str) -> None:
    ada = ["Ada NNP x B-PER", "Lovelace NNP x I-PER", "wrote VBD x O"]
    lines = ["-DOCSTART- -X- O O", "", *ada, "", "", "EU N x B-ORG", ". . x O"]
    text = "\n".join(line.replace(" ", separator) for line in lines)
    read = tasks.read(write(tmp_path / "dev.conll", text))
    assert read.rows == SENTENCES
    assert read.lines == [3, 8]


def test_json_is_one_list_of_objects(tmp_path: Path) -> None:
    assert tasks.read(write(tmp_path / "a.json", json.dumps(SENTENCES))).rows == SENTENCES


def test_spans_and_tags_say_the_same(tmp_path: Path) -> None:
    spans = [
        {"tokens": SENTENCES[0]["tokens"], "entities": [{"type": "PER", "start": 0, "end": 2}]},
        {"tokens": SENTENCES[1]["tokens"], "entities": [{"type": "ORG", "start": 0, "end": 1}]},
    ]
    task = tasks.find("tagging").learn(table(SENTENCES))
    assert task.prepared(table(spans)).rows == SENTENCES


def test_renamed_columns_replace_those_of_their_new_name() -> None:
    rows = table([{"mr": "m", "ref": "r", "source": "old"}]).renamed({"source": "mr", "target": "ref"}).rows
    assert rows == [{"source": "m", "target": "r"}]


@pytest.mark.parametrize("old", ["text", "source"])
def test_one_column_can_be_two(old: str) -> None:
    rows = table([{old: "m", "target": "r", "x": "1"}]).renamed({"source": old, "target": old}).rows
    assert rows == [{"source": "m", "target": "m", "x": "1"}]


def test_two_columns_can_be_each_other() -> None:
    rows = table([{"source": "m", "target": "r"}]).renamed({"source": "target", "target": "source"}).rows
    assert rows == [{"source": "r", "target": "m"}]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("bad.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
        ("list.jsonl", '{"text": "a"}\n\n["a"]\n', "line 3: expected one JSON object a line, got a list"),
        ("bad.json", '[{"a": 1},\n{"a" 2}]', "line 2: not valid JSON"),
        ("object.json", '{"a": 1}', "expected a list of objects"),
        ("short.csv", "text,label\na,b\nc\n", "line 3: 1 fields where the header has 2 \\(text, label\\)"),
        ("quote.csv", 'text,label\n"a,b\n', "line 2: malformed"),
        ("word.conll", "Ada B-PER\nwrote\n", "line 2: 'wrote' has no tag"),
        ("empty.jsonl", "", "is empty"),
        ("blank.csv", " \n\n", "is empty"),
        ("header.csv", "text,label\n", "is empty"),
        ("twice.csv", "text,text,label\na,b,c\n", "line 1: two columns are called 'text'; rename one"),
        ("half.jsonl", '{"text": "a"}\n{"text": "b\\ud83d"}\n', "line 2: half a character \\('.ud83d'\\)"),
        ("rows.parquet", "x", "unknown extension '.parquet'.*--data-format"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        tasks.read(write(tmp_path / name, text))
    assert name in str(caught.value)


def test_an_article_longer_than_pythons_limit_of_a_field_is_read(tmp_path: Path) -> None:
    article = "x " * 70_000
    path = write(tmp_path / "long.csv", f"source,target\n{article},short\n")
    assert tasks.read(path).rows == [{"source": article, "target": "short"}]


def test_a_whole_character_written_as_two_halves_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.jsonl", '{"text": "\\ud83d\\ude00"}\n')
    assert tasks.read(path).rows == [{"text": "\N{GRINNING FACE}"}]


@pytest.mark.parametrize(
    ("kind", "row", "complaint"),
    [
        ("classification", {"text": ["a", "b"], "label": "x"}, 'expected a text, got \\["a", "b"\\]'),
        ("classification", {"text": "a", "label": ["x", "y"]}, 'expected one label, got \\["x", "y"\\]'),
        ("classification", {"text": [date(2026, 1, 2)], "label": "x"}, 'expected a text, got ..2026-01-02"'),
        ("choice", {"text": {"a": 1}, "choices": ["b", "c"], "label": 0}, 'expected a text, got {"a": 1}'),
        ("spans", {"text": ["abc"], "spans": [[0, 1]], "label": "x"}, 'expected a text, got \\["abc"\\]'),
        ("text2text", {"source": "a", "target": ["good", None]}, "expected a text, got null"),
    ],
)
def test_a_value_that_is_no_text_is_never_written_out_as_one(kind: str, row: dict[str, Any], complaint: str) -> None:
    good = {
        "classification": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
        "choice": [{"text": "a", "choices": ["b", "c"], "label": 0}],
        "spans": [{"text": "abc", "spans": [[0, 1]], "label": label} for label in "xy"],
        "text2text": [{"source": "a", "target": "b"}],
    }
    task = tasks.find(kind).learn(table(good[kind]))
    with pytest.raises(DataError, match=f"line 1: {complaint}"):
        task.prepared(table([row]))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin.csv is not UTF-8"):
        tasks.read(str(tmp_path / "latin.csv"))


@pytest.mark.parametrize("given", ["missing.jsonl", "no/such/folder/at.all"])
def test_a_missing_file_is_named(given: str) -> None:
    with pytest.raises(DataError, match="there is no file"):
        tasks.read(given)


def test_what_is_neither_a_file_nor_on_the_hub_is_named() -> None:
    with pytest.raises(DataError, match="not a local file.*hub data set failed"):
        tasks.read("nobody/nothing")


def test_a_missing_column_is_named_with_its_near_miss() -> None:
    with pytest.raises(DataError, match="no column 'target'; did you mean 'targets'.*--columns target="):
        tasks.find("text2text").learn(table([{"source": "a", "targets": "b"}]))


def test_a_rename_of_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="no column 'mrs' to use as 'source'; did you mean 'mr'"):
        table([{"mr": "a"}]).renamed({"source": "mrs"})


def test_a_rename_to_a_column_the_task_does_not_know_is_named() -> None:
    with pytest.raises(DataError, match="no column 'sauce'; did you mean 'source'"):
        tasks.check_columns({"sauce": "mr"}, ("source", "target"))


def test_an_unknown_task_is_named_with_its_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tagging'"):
        tasks.find("taging")


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_are_numbers_in_order_or_names_in_order() -> None:
    def learned(*labels: object) -> tuple[str, ...]:
        return tasks.find("classification").learn(table([{"text": "", "label": label} for label in labels])).labels

    assert learned(10, 2, "1") == ("1", "2", "10")
    assert learned("no", True, "maybe") == ("maybe", "no", "true")


def test_an_unseen_label_is_named_with_its_row() -> None:
    task = tasks.find("classification").learn(table(TEXTS))
    with pytest.raises(DataError, match="data, line 2: the label 'yess' was not seen in training; did you mean 'yes'"):
        task.prepared(table([TEXTS[0], {"text": "b", "label": "yess"}]))


def test_an_unseen_tag_is_named_with_its_row() -> None:
    task = tasks.find("tagging").learn(table(SENTENCES))
    with pytest.raises(DataError, match="data, line 1: the tag 'B-LOC' was not seen in training"):
        task.prepared(table([{"tokens": ["Rome"], "tags": ["B-LOC"]}]))


def test_unequal_tokens_and_tags_are_named_with_their_row() -> None:
    with pytest.raises(DataError, match="data, line 2: 2 tokens but 1 tags"):
        tasks.find("tagging").learn(table([SENTENCES[0], {"tokens": ["a", "b"], "tags": ["O"]}]))


def test_one_label_is_no_classification_and_a_fraction_is_no_label() -> None:
    learn = tasks.find("classification").learn
    with pytest.raises(DataError, match="only the label 'yes'"):
        learn(table([TEXTS[0]]))
    with pytest.raises(DataError, match="0.5 is a number, not a class"):
        learn(table([{"text": "a", "label": 0.5}]))


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-X", "I-X"], "IOB"),
        (["O", "I-X"], "IOB"),
        (["O", "B-X", "I-X", "L-X", "U-X"], "BILOU"),
        (["O", "U-X"], "BILOU"),
        (["O", "B-X", "I-X", "E-X", "S-X"], "IOBES"),
        (["NN", "VB"], "none"),
    ],
)
def test_the_scheme_of_tags_is_recognised(tags: list[str], scheme: str) -> None:
    assert tasks.find("tagging").learn(table([{"tokens": tags, "tags": tags}])).scheme == scheme


@pytest.mark.parametrize("marks", [("B", "I", "L", "U"), ("B", "I", "E", "S")])
def test_iob2_loses_nothing_of_bilou_and_iobes(marks: tuple[str, str, str, str]) -> None:
    begin, inside, last, unit = marks
    tags = [f"{unit}-A", f"{unit}-A", "O", f"{begin}-B", f"{inside}-B", f"{last}-B", f"{begin}-B", f"{last}-B"]
    rows = table([{"tokens": tags, "tags": tags}])
    task = tasks.find("tagging").learn(rows, tag_scheme="iob2")
    assert task.prepared(rows).rows[0]["tags"] == ["B-A", "B-A", "O", "B-B", "I-B", "I-B", "B-B", "I-B"]
    assert task.scheme == "IOB"


@pytest.mark.parametrize("kind", tasks.names())
def test_a_task_comes_back_from_its_metadata(kind: str) -> None:
    rows = {
        "text2text": [{"source": "a", "target": "b"}],
        "classification": TEXTS,
        "tagging": SENTENCES,
        "spans": [{**row, "spans": [[0, 1]]} for row in TEXTS],
        "choice": [{"text": "a", "choices": ["b", "c"], "label": 1}],
    }[kind]
    task = tasks.find(kind).learn(table(rows))
    assert tasks.from_metadata(json.loads(json.dumps(task.metadata()))) == task


# --- features ----------------------------------------------------------------------------------------------------


def test_a_tag_stands_on_the_first_letter_of_its_word(tmp_path: Path) -> None:
    task = tasks.find("tagging").learn(table(SENTENCES))
    model, tokenizer = load_base(tiny.encoder(tmp_path), task)
    (feature, _) = task.features(table(SENTENCES), model, tokenizer, window(model, tokenizer, 0))
    letters = tokenizer.convert_ids_to_tokens(feature["input_ids"])
    pairs = zip(letters, feature["labels"], strict=True)
    marked = {letter: task.labels[label] for letter, label in pairs if label != IGNORED}
    assert letters == ["[CLS]", *"Ada", *"Lovelace", *"wrote", "[SEP]"]
    assert marked == {"A": "B-PER", "L": "I-PER", "w": "O"}


def test_words_that_were_cut_off_or_have_no_token_are_no_entities(tmp_path: Path) -> None:
    rows = table([{"tokens": ["Ada", " ", "Eve"], "tags": ["B-PER", "O", "B-PER"]}])
    task = tasks.find("tagging").learn(rows)
    model, tokenizer = load_base(tiny.encoder(tmp_path), task)
    wanted = torch.zeros(1, 9, len(task.labels))
    wanted[..., task.labels.index("B-PER")] = 1
    whole = task.features(rows, model, tokenizer, Window())
    assert task.answers(wanted, whole) == [["B-PER", "O", "B-PER"]]
    cut = task.features(rows, model, tokenizer, Window(max_length=5))
    assert len(cut[0]["input_ids"]) == 5
    assert task.score(task.answers(wanted[:, :5], cut), rows)["recall"] == 0.5


@pytest.mark.parametrize("make", [tiny.decoder, tiny.llama])
def test_a_decoders_loss_is_the_mean_log_probability_of_the_target(tmp_path: Path, make: Any) -> None:
    task = tasks.find("text2text").learn(table([{"source": "ab", "target": "xyz"}]), separator=" = ")
    model, tokenizer = load_base(make(tmp_path), task)
    rows = task.prepared(table([{"source": "ab", "target": "xyz"}, {"source": "abcdef", "target": "y"}]))
    features = task.features(rows, model, tokenizer, window(model, tokenizer, 0))
    assert tokenizer.decode(features[0]["input_ids"]) == "ab = xyz<end>"

    expected, count = 0.0, 0
    for prompt, target in (("ab = ", "xyz"), ("abcdef = ", "y")):
        ids = tokenizer(prompt)["input_ids"]
        for token in [*tokenizer(target)["input_ids"], tokenizer.eos_token_id]:  # one token at a time, no padding
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            expected -= float(logits[token] - logits.exp().sum().log())
            ids, count = [*ids, token], count + 1
    (_, logits, labels), *_ = batch_logits(model, features, task.collator(model, tokenizer), 2)
    total, labelled = token_losses(logits[:, :-1], labels[:, 1:])
    assert int(labelled) == count == 6
    assert math.isclose(float(total), expected, rel_tol=1e-5)


def test_an_encoder_decoders_loss_is_its_own(tmp_path: Path) -> None:
    rows = table([{"source": "ab", "target": "xyz"}, {"source": "abcd", "target": "y"}])
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(tiny.encoder_decoder(tmp_path), task)
    features = task.features(task.prepared(rows), model, tokenizer, window(model, tokenizer, 0))
    batch = task.collator(model, tokenizer)(features)
    with torch.no_grad():
        theirs = model(**batch).loss
    (_, logits, labels), *_ = batch_logits(model, features, task.collator(model, tokenizer), 2)
    total, count = token_losses(logits, labels)
    assert torch.allclose(total / count, theirs, rtol=1e-5)


def test_a_byte_level_tokenizer_takes_words_as_it_takes_their_text(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"ĠAdLovelcwrit"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    RobertaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    RobertaModel(RobertaConfig(vocab_size=len(vocabulary), pad_token_id=1, **shape)).save_pretrained(tmp_path)
    task = tasks.find("tagging").learn(table(SENTENCES[:1]))
    model, tokenizer = load_base(str(tmp_path), task)
    (feature,) = task.features(table(SENTENCES[:1]), model, tokenizer, window(model, tokenizer, 0))
    assert feature["input_ids"] == tokenizer(" Ada Lovelace wrote")["input_ids"]
    assert [word for word in feature["words"] if word is not None] == [0, 1, 2]


def test_what_generation_is_forced_to_write_first_was_trained_first(tmp_path: Path) -> None:
    rows = table([{"source": "ab", "target": "xyz"}])
    task = tasks.find("text2text").learn(rows, max_target_length=4)
    model, tokenizer = load_base(tiny.encoder_decoder(tmp_path), task)
    model.generation_config.forced_bos_token_id = 7  # as the published BARTs have it
    features = task.features(task.prepared(rows), model, tokenizer, window(model, tokenizer, 0))
    batch = task.collator(model, tokenizer)(features)
    out = model.generate(torch.tensor([features[0]["input_ids"]]), max_new_tokens=3)
    assert out[0, :2].tolist() == batch["decoder_input_ids"][0, :2].tolist() == [0, 7]
    assert features[0]["labels"] == [7, *tokenizer("xy")["input_ids"], tokenizer.eos_token_id]


def test_a_text_of_all_the_positions_that_roberta_has_is_read(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokenizer = tiny.letter_tokenizer()
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, max_position_embeddings=34, **shape)
    model = RobertaForSequenceClassification(config)
    room = window(model, tokenizer, 0)
    assert room.positions == 32  # its first position comes after that of padding
    model(input_ids=torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 33), 5))


def test_a_length_that_holds_only_special_tokens_is_refused(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3})
    model, _ = load_base(tiny.encoder(tmp_path), tasks.find("classification").learn(table(tiny.first_letter(8))))
    with pytest.raises(ConfigError, match="max_length is 2; expected more than the 2 special tokens"):
        window(model, tokenizer, 0, max_length=2)


def test_a_long_source_is_cut_and_its_target_never(tmp_path: Path) -> None:
    rows = table([{"source": "s" * 500, "target": "t" * 20}])
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(tiny.decoder(tmp_path), task)
    room = window(model, tokenizer, prefix_length=10)
    (feature,) = task.features(task.prepared(rows), model, tokenizer, room)
    assert len(feature["input_ids"]) == 96 - 10
    assert tokenizer.decode(feature["input_ids"]).endswith("s\n" + "t" * 20 + "<end>")
    assert feature["labels"].count(IGNORED) == 96 - 10 - 21


def test_a_target_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    rows = table([{"source": "s", "target": "t" * 200}])
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(tiny.decoder(tmp_path), task)
    with pytest.raises(DataError, match="a target has 201 tokens but the model has room for 86.*max_target_length"):
        task.features(task.prepared(rows), model, tokenizer, window(model, tokenizer, 10))


def test_a_generation_prompt_is_what_training_saw(tmp_path: Path) -> None:
    rows = table([{"source": "what", "target": "that"}])
    task = tasks.find("text2text").learn(rows)
    model, tokenizer = load_base(tiny.decoder(tmp_path), task)
    room = window(model, tokenizer, 0)
    (feature,) = task.features(task.prepared(rows), model, tokenizer, room)
    (prompt,) = task.prompts(["what"], model, tokenizer, room)
    assert prompt == [id for id, label in zip(feature["input_ids"], feature["labels"], strict=True) if label == IGNORED]


def test_a_list_of_targets_is_one_example_each_and_one_text_of_many_references() -> None:
    from prefixtune.tasks.text2text import grouped

    rows = table([{"source": ["a", "b"], "target": ["x", "y"]}, {"source": "c", "target": "z"}])
    prepared = tasks.find("text2text").learn(rows).prepared(rows)
    assert prepared.rows == [
        {"source": "a b", "target": "x"}, {"source": "a b", "target": "y"}, {"source": "c", "target": "z"},
    ]  # fmt: skip
    assert grouped(prepared) == {"a b": ["x", "y"], "c": ["z"]}


@pytest.mark.parametrize("make", [tiny.decoder, tiny.encoder_decoder])
def test_a_source_of_several_tables_is_answered_once_and_as_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    from prefixtune.tasks import text2text

    rows = [{"source": source, "target": "x"} for source in ("ab", "cd", "ab", "what is it")]
    tables = [table(rows[:1]), table(rows[1:]), table(rows)]
    task = tasks.find("text2text").learn(tables[2])
    model, tokenizer = load_base(make(tmp_path), task)
    room, decoding = window(model, tokenizer, 0), Decoding(max_new_tokens=5)
    settings = {"batch_size": 1, "decoding": decoding}  # alone in its batch: no padding tells answers apart
    alone = [task.predict(model, tokenizer, each, room, answered=True, **settings).answers for each in tables]
    asked: list[list[int]] = []
    monkeypatch.setattr(text2text, "generate", lambda *args: asked.extend(args[2]) or generate(*args))
    assert task.answers_to(model, tokenizer, tables, room, **settings) == alone
    assert asked == task.prompts(["ab", "cd", "what is it"], model, tokenizer, room)


# --- loading -----------------------------------------------------------------------------------------------------


def test_a_decoder_without_a_pad_token_classifies_padded_rows_as_it_does_single_ones(tmp_path: Path) -> None:
    rows = table(tiny.first_letter(16))
    task = tasks.find("classification").learn(rows)
    model, tokenizer = load_base(tiny.decoder(tmp_path), task)
    features = task.features(task.prepared(rows), model, tokenizer, window(model, tokenizer, 0))
    collate = task.collator(model, tokenizer)
    ((order, together, _),) = batch_logits(model, features, collate, 16)
    alone = {row: logits[0] for (row,), logits, _ in batch_logits(model, features, collate, 1)}
    assert torch.allclose(together, torch.stack([alone[row] for row in order]), atol=1e-5)


def test_padding_is_no_last_token_where_the_base_has_another_id_for_it(tmp_path: Path) -> None:
    rows = table(tiny.first_letter(8))
    task = tasks.find("classification").learn(rows)
    folder = tiny.llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 5}))
    model, tokenizer = load_base(folder, task)
    features = task.features(task.prepared(rows), model, tokenizer, window(model, tokenizer, 0))
    collate = task.collator(model, tokenizer)
    together = torch.cat([logits for _, logits, _ in batch_logits(model, features, collate, 8)])
    order = [row for rows_of, _, _ in batch_logits(model, features, collate, 8) for row in rows_of]
    alone = torch.cat([logits for row in order for _, logits, _ in batch_logits(model, [features[row]], collate, 1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_missing_language_model_head_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    folder = tiny.llama(tmp_path)
    config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=False)
    LlamaModel(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="lacks 1 weights of LlamaForCausalLM \\(lm_head.weight"):
        load_base(folder, None)
    load_base(folder, tasks.find("classification").learn(table(tiny.first_letter(8))))


def test_without_dropout_the_base_model_in_training_mode_is_deterministic(tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    ids = torch.arange(5, 15)[None]

    def differs(dropout: bool) -> bool:
        task = tasks.find("classification").learn(table(TEXTS))
        model, _ = load_base(folder, task, dropout=dropout)
        model.train()
        return not torch.equal(model(ids).logits, model(ids).logits)

    assert differs(dropout=True)
    assert not differs(dropout=False)


def test_missing_base_weights_are_refused_and_a_missing_head_is_not(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    task = tasks.find("tagging").learn(table(SENTENCES))
    folder = tiny.encoder(tmp_path)
    load_base(folder, task)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights.*layer.1.output.dense.weight"):
        load_base(folder, task)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="cannot load the model 'no-such-model'"):
        load_base("no-such-model", None)
