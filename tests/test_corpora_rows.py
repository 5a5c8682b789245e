"""Rows and files that are not as they should be: what the original data sets have of them is read, the rest refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from prefixtune import corpora
from prefixtune.cli import main
from prefixtune.corpora import news, wsc
from prefixtune.corpora.corpus import converted
from prefixtune.errors import DataError
from prefixtune.tasks import Table

# --- the spans of WSC --------------------------------------------------------------------------------------------


def marked(text: str, span: str, word: int) -> tuple[str, int]:
    """What is marked, and how many characters stand before it."""
    start, end = wsc.characters(text, span, word, "here")
    return text[start:end], start


@pytest.mark.parametrize(
    ("text", "span", "word", "before"),
    [
        ('Tom said "I am ill" to Bob.', "I", 2, 'Tom said "'),
        ('Ann told Eve ("he lied") that her hat was gone.', "he", 3, 'Ann told Eve ("'),
        ('The man said "it works" in its own time.', "it", 3, 'The man said "'),
        ("Grace was happy (she won) because sheep ran.", "she", 3, "Grace was happy ("),
        ("Ann (she is tall) saw Eve.", "she", 1, "Ann ("),
        ("In 1912 the _Ada_ sank.", "Ada", 3, "In 1912 the _"),
        ("Jane's aunt saw her.", "Jane", 0, ""),
        ("When her boy ran he fell.", "he", 3, "When her boy ran "),  # a word too few
        ("Because of hers he left.", "he", 2, "Because of hers "),
        ("It ran , then it sat.", "it", 5, "It ran , then "),  # a word too many
        ("So it sat , and it ran .", "it", 40, "So it sat , and "),  # beyond the last word
    ],
)
def test_a_span_is_whole_words_wherever_marks_stand_before_them(text: str, span: str, word: int, before: str) -> None:
    assert marked(text, span, word) == (span, len(before))


@pytest.mark.parametrize(
    ("text", "span", "word", "found"),
    [
        ('He typed " red Fox Nine " as told.', "red Fox\nNine", 3, "red Fox Nine"),  # as the official training file
        ("The old Dr. May Hill left.", "Dr.  May Hill ", 2, "Dr. May Hill"),
        ("I saw Jim yesterday.", "Jim.", 2, "Jim"),
        ("I saw him, then Jim.", "Jim.", 4, "Jim."),
        ("The tree fell on it.", "THE tree,", 0, "The tree"),
        ("Ada, and later Bo, said that they agreed.", "Ada and Bo", 0, "Ada, and later Bo"),
        ("First Ada , then Bo , and last Cy left.", "Ada, Bo, and Cy", 1, "Ada , then Bo , and last Cy"),
    ],
)
def test_spans_that_the_official_files_have_otherwise_than_the_text_are_found(
    text: str, span: str, word: int, found: str
) -> None:
    assert marked(text, span, word)[0] == found


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The cat sat.", "he"),
        ("The cat sat.", "dog"),
        ("The cat sat.", "."),
        ("The cat sat.", ""),
        ("The cat sat.", "sat cat"),
        ("", "cat"),
        ("Ada ran " + "and ran " * 20 + "to Bo.", "Ada and Bo"),  # words so far apart are no span
    ],
)
def test_a_span_that_the_text_does_not_have_is_refused(text: str, span: str) -> None:
    with pytest.raises(DataError, match="here: the span .* does not begin at any word of the text"):
        wsc.characters(text, span, 0, "here")


# --- labels ------------------------------------------------------------------------------------------------------

BOOLQ = {"question": "q", "passage": "p", "label": True}
WIC = {
    "word": "bank", "sentence1": "A bank.", "sentence2": "The banks.", "start1": 2, "end1": 6, "start2": 4, "end2": 9,
    "label": True,
}  # fmt: skip
TARGET = {"span1_text": "Mark", "span1_index": 0, "span2_text": "Pete", "span2_index": 2}
WSC = {"text": "Mark told Pete lies.", "target": TARGET, "label": True}
COPA = {"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 0}
ANSWER = {"text": "a", "label": 1}
QUESTION = {"idx": 0, "question": "q", "answers": [ANSWER]}


def multirc(**changes: Any) -> dict[str, Any]:
    return {"idx": 0, "passage": {"text": "p", "questions": [{**QUESTION, **changes}]}}


def superglue(folder: Path, row: dict[str, Any], good: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "val"):
        tiny.jsonl(folder / f"{split}.jsonl", [good, row])
    return str(folder)


@pytest.mark.parametrize("label", [None, "", "none", -1, 2, "-1", [True]])
@pytest.mark.parametrize(
    ("name", "good"), [("boolq", BOOLQ), ("wic", WIC), ("wsc", WSC), ("multirc", multirc())], ids=lambda given: given
)
def test_a_row_whose_label_is_neither_true_nor_false_is_refused(
    tmp_path: Path, name: str, good: dict[str, Any], label: Any
) -> None:
    row = multirc(answers=[{**ANSWER, "label": label}]) if name == "multirc" else {**good, "label": label}
    told = "no value for the column 'label'" if label is None else "the label is "
    with pytest.raises(DataError, match=f"train.jsonl, line 2: {told}") as caught:
        corpora.find(name).read(superglue(tmp_path, row, good))
    assert "expected true or false" in str(caught.value)


def test_true_and_false_are_the_same_labels_in_every_writing(tmp_path: Path) -> None:
    labels = [True, 1, "true", "True", "1", False, 0, "false", "False", "0"]
    for split in ("train", "val"):
        tiny.jsonl(tmp_path / f"{split}.jsonl", [{**BOOLQ, "label": label} for label in labels])
    found = corpora.find("boolq").read(str(tmp_path))
    assert [row["label"] for row in found.train.rows] == ["true"] * 5 + ["false"] * 5


def test_a_label_that_a_hub_data_set_hides_is_refused(tmp_path: Path) -> None:
    text = Value("string")
    features = Features({"question": text, "passage": text, "label": ClassLabel(names=["False", "True"])})
    rows = Dataset.from_list([{"question": "q", "passage": "p", "label": i} for i in (0, 1, -1)], features=features)
    DatasetDict(train=rows, validation=rows).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="line 3: no value for the column 'label'; expected true or false"):
        corpora.find("boolq").read(str(tmp_path / "set"))


# --- rows of another form ----------------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[str, dict[str, Any], str]] = {
    "wic start null": ("wic", {**WIC, "start1": None}, "start1 is null; expected a whole number"),
    "wic end text": ("wic", {**WIC, "end2": "x"}, 'end2 is "x"; expected a whole number'),
    "wic start list": ("wic", {**WIC, "start2": [4]}, "start2 is [4]; expected a whole number"),
    "wic start fraction": ("wic", {**WIC, "start2": 4.5}, "start2 is 4.5; expected a whole number"),
    "wsc target null": ("wsc", {**WSC, "target": None}, "expected text, target with span1_text"),
    "wsc target text": ("wsc", {**WSC, "target": "x"}, "expected text, target with span1_text"),
    "wsc text null": ("wsc", {**WSC, "text": None}, "text is null; expected a text"),
    "wsc span null": ("wsc", {**WSC, "target": {**TARGET, "span1_text": None}}, "span1_text is null; expected a text"),
    "wsc index null": ("wsc", {**WSC, "target": {**TARGET, "span2_index": None}}, "span2_index is null"),
    "multirc passage null": ("multirc", {"idx": 0, "passage": None}, "expected passage with text and questions"),
    "multirc passage text": ("multirc", {"idx": 0, "passage": "p"}, "expected passage with text and questions"),
    "multirc questions": ("multirc", {"idx": 0, "passage": {"text": "p", "questions": "x"}}, "expected passage with"),
    "multirc question null": ("multirc", multirc(question=None), "question is null; expected a text"),
    "multirc answers null": ("multirc", multirc(answers=None), "expected passage with text and questions"),
    "multirc answer null": ("multirc", multirc(answers=[{**ANSWER, "text": None}]), "text is null; expected a text"),
    "copa premise null": ("copa", {**COPA, "premise": None}, "premise is null; expected a text"),
    "copa question list": ("copa", {**COPA, "question": ["cause"]}, 'question is ["cause"]; expected cause or effect'),
    "copa label list": ("copa", {**COPA, "label": [1]}, "the label is [1]; expected 0 or 1"),
    "copa label null": ("copa", {**COPA, "label": None}, "no value for the column 'label'; expected 0 or 1"),
}
GOOD = {"wic": WIC, "wsc": WSC, "multirc": multirc(), "copa": COPA}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_row_of_superglue_is_named_with_what_was_expected(tmp_path: Path, case: str) -> None:
    name, row, told = MALFORMED[case]
    with pytest.raises(DataError) as caught:
        corpora.find(name).read(superglue(tmp_path, row, GOOD[name]))
    message = str(caught.value)
    assert "train.jsonl, line 2: " in message and told in message and "\n" not in message


TRIPLES, TEXTS = [["a", "b", "c"]], [{"source": "x", "text": "t"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"a": 1}, "full-train.json: expected a list of objects"),
        (3, "full-train.json: expected a list of objects"),
        (["a"], "full-train.json, item 1: expected an object"),
        ([{"tripleset": [[1, 2, 3]], "annotations": TEXTS}], "line 1: [[1, 2, 3]] are no triples; expected"),
        ([{"tripleset": [["a", None, "c"]], "annotations": TEXTS}], "are no triples; expected"),
        ([{"tripleset": None, "annotations": TEXTS}], "line 1: null are no triples; expected"),
        ([{"tripleset": [], "annotations": TEXTS}], "line 1: [] are no triples; expected"),
        ([{"tripleset": ["abc"], "annotations": TEXTS}], 'line 1: ["abc"] are no triples; expected'),
        ([{"tripleset": TRIPLES, "annotations": [{"text": None}]}], "line 1: text is null; expected a text"),
        ([{"tripleset": TRIPLES, "annotations": ["t"]}], "expected tripleset and annotations, each with a text"),
        ([{"tripleset": TRIPLES, "annotations": None}], "expected tripleset and annotations, each with a text"),
        ([{"tripleset": TRIPLES, "annotations": {"text": [None]}}], "text is null; expected a text"),
        ([{"tripleset": TRIPLES, "annotations": {"text": "abc"}}], "expected tripleset and annotations"),
        ([{"tripleset": TRIPLES, "annotations": [{"text": " "}]}], "line 1: the target is empty"),
    ],
)
def test_a_malformed_file_of_dart_is_named_with_what_was_expected(tmp_path: Path, content: Any, told: str) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"dart-v1.1.1-full-{split}.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        corpora.find("dart").read(str(tmp_path))
    assert told in str(caught.value) and "dart-v1.1.1-full-train.json" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"source": [1], "target": ["t"]}, "expected lists of sentences in source and target"),
        ({"source": ["a"], "target": [None]}, "expected lists of sentences in source and target"),
        ({"source": "a", "target": ["t"]}, "expected lists of sentences in source and target"),
        ({"source": ["a"], "target": []}, "expected lists of sentences in source and target"),
        ({"source": [" "], "target": ["t"]}, "the source is empty"),
        ({"source": ["a"], "target": ["t", ""]}, "the target is empty"),
    ],
)
def test_a_malformed_row_of_scitldr_is_named_with_what_was_expected(
    tmp_path: Path, row: dict[str, Any], told: str
) -> None:
    for split in ("train", "dev", "test"):
        tiny.jsonl(tmp_path / f"{split}.jsonl", [{"source": ["a"], "target": ["t"]}, row])
    with pytest.raises(DataError) as caught:
        corpora.find("scitldr").read(str(tmp_path))
    assert f"train.jsonl, line 2: {told}" in str(caught.value)


@pytest.mark.parametrize(("line", "told"), [("name[A],", "the target is empty"), (",A.", "the source is empty")])
def test_an_empty_text_of_e2e_is_named_with_its_row(tmp_path: Path, line: str, told: str) -> None:
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        (tmp_path / name).write_text(f"mr,ref\nname[B],B.\n{line}\n")
    with pytest.raises(DataError, match=f"trainset.csv, line 3: {told}; expected a text, or no such row"):
        corpora.find("e2e").read(str(tmp_path))


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError, IndexError])
def test_whatever_a_row_makes_fail_is_one_line_that_names_the_row(error: type[Exception]) -> None:
    def change(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
        raise error("two\nlines")

    table = Table("data", [{"a": 1, "b": 2}], [7])
    with pytest.raises(DataError, match=r"^data, line 7: malformed \(two lines\); it has a, b$"):
        converted(table, change)
    with pytest.raises(DataError, match=r"^data, line 7: malformed \(two lines\); expected c$"):
        converted(table, change, "c")


def test_a_malformed_row_ends_the_command_with_two_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = superglue(tmp_path / "data", {**WIC, "start1": None}, WIC)
    model = tiny.encoder(tmp_path / "bert")
    argv = ["--model", model, "--data", f"wic={data}", "--corpora", "wic", "--output", str(tmp_path / "out")]
    assert main(["reproduce", "apt", *argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefixtune: ")]
    assert len(lines) == 1 and "train.jsonl, line 2: start1 is null; expected a whole number" in lines[0]


@pytest.mark.parametrize(
    "content", [["1"], None, 3, {"train": None, "validation": ["1"], "test": ["1"]}, {"train": ["1"]}], ids=str
)
def test_a_file_of_xsums_splits_of_another_form_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / news.FOLDER).mkdir()
    (tmp_path / news.SPLITS).write_text(json.dumps(content))
    with pytest.raises(DataError, match="90-5-5.json: no list of articles in (train|validation)"):
        corpora.find("xsum").read(str(tmp_path))
