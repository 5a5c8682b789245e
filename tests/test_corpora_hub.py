"""The corpora from data sets in the hub's columns: tiny ones of our own, which the datasets library loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value, load_from_disk

from prefixtune import corpora
from prefixtune.corpora.superglue import SuperGlue
from prefixtune.errors import DataError
from prefixtune.tasks import read

TEXT, NUMBER = Value("string"), Value("int32")
TRUTH = ClassLabel(names=["False", "True"])
ENTAILED = ClassLabel(names=["entailment", "contradiction", "neutral"])
NER = Sequence(ClassLabel(names=["O", "B-PER", "I-PER"]))


def publish(folder: Path, rows: list[dict[str, Any]], features: Features | None = None, subset: str = "") -> str:
    """A folder as the hub has data sets: Parquet files by split and a card that names the configuration."""
    home = folder / subset
    home.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        Dataset.from_list(rows, features=features).to_parquet(str(home / f"{split}-00000-of-00001.parquet"))
    files = "".join(
        f"  - split: {split}\n    path: {subset + '/' if subset else ''}{split}-*\n"
        for split in ("train", "validation", "test")
    )
    card = f"---\nconfigs:\n- config_name: {subset or 'default'}\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card)
    return str(folder)


CASES: dict[str, tuple[list[dict[str, Any]], Features | None, list[dict[str, Any]]]] = {
    "e2e": (
        [{"meaning_representation": "name[Bo], eatType[pub]", "human_reference": "Bo is a pub."}],
        None,
        [{"source": "name : Bo | Type : pub", "target": "Bo is a pub."}],
    ),
    "webnlg": (
        [
            {
                "category": "Bridge", "eid": "Id1", "size": 1,
                "modified_triple_sets": {"mtriple_set": [["Arch | spans | Wye"]]},
                "lex": {"comment": ["good", "bad"], "lid": ["1", "2"], "text": ["It spans the Wye.", "No."]},
            }
        ],
        None,
        [{"source": "| Arch : spans : Wye", "target": "It spans the Wye.", "category": "Bridge"}],
    ),
    "dart": (
        [{"tripleset": [["A", "IS_IN", "B"]], "annotations": {"source": ["x"], "text": ["A is in B."]}}],
        None,
        [{"source": "A : is_in : B", "target": "A is in B."}],
    ),
    "xsum": (
        [{"document": "It rained.\nAll day.", "summary": "Rain.", "id": "1"}],
        None,
        [{"source": "It rained. All day.", "target": "Rain."}],
    ),
    "scitldr": (
        [{"source": ["We do.", "It works."], "target": ["It works."], "paper_id": "x"}],
        None,
        [{"source": "We do. It works.", "target": "It works."}],
    ),
    "boolq": (
        [{"question": "is it", "passage": "It is.", "idx": 0, "label": 1}],
        Features({"question": TEXT, "passage": TEXT, "idx": NUMBER, "label": TRUTH}),
        [{"text": "is it", "text_pair": "It is.", "label": "true"}],
    ),
    "cb": (
        [{"premise": "p", "hypothesis": "h", "label": 2}],
        Features({"premise": TEXT, "hypothesis": TEXT, "label": ENTAILED}),
        [{"text": "p", "text_pair": "h", "label": "neutral"}],
    ),
    "copa": (
        [{"premise": "It rained.", "choice1": "a", "choice2": "b", "question": "cause", "label": 1}],
        Features(
            {"premise": TEXT, "choice1": TEXT, "choice2": TEXT, "question": TEXT,
             "label": ClassLabel(names=["choice1", "choice2"])}
        ),
        [{"text": "It rained. because", "choices": ["a", "b"], "label": 1}],
    ),
    "rte": (
        [{"premise": "p", "hypothesis": "h", "label": 1}],
        Features({"premise": TEXT, "hypothesis": TEXT, "label": ClassLabel(names=["entailment", "not_entailment"])}),
        [{"text": "p", "text_pair": "h", "label": "not_entailment"}],
    ),
    "wic": (
        [
            {"word": "bank", "sentence1": "A bank.", "sentence2": "The banks.", "start1": 2, "start2": 4, "end1": 6,
             "end2": 9, "label": 0}
        ],
        Features(
            {"word": TEXT, "sentence1": TEXT, "sentence2": TEXT, "start1": NUMBER, "start2": NUMBER, "end1": NUMBER,
             "end2": NUMBER, "label": TRUTH}
        ),
        [{"text": "A bank.", "spans": [[2, 6]], "text_pair": "The banks.", "spans_pair": [[4, 9]], "label": "false"}],
    ),
    "wsc": (
        [{"text": "The cat sat ; it slept.", "span1_index": 0, "span2_index": 4, "span1_text": "the cat",
          "span2_text": "it", "label": 1}],
        Features(
            {"text": TEXT, "span1_index": NUMBER, "span2_index": NUMBER, "span1_text": TEXT, "span2_text": TEXT,
             "label": TRUTH}
        ),
        [{"text": "The cat sat ; it slept.", "spans": [[0, 7], [14, 16]], "label": "true"}],
    ),
    "multirc": (
        [{"paragraph": "It rained.", "question": "What?", "answer": "Rain",
          "idx": {"paragraph": 3, "question": 8, "answer": 0}, "label": 1}],
        Features(
            {"paragraph": TEXT, "question": TEXT, "answer": TEXT,
             "idx": {"paragraph": NUMBER, "question": NUMBER, "answer": NUMBER}, "label": TRUTH}
        ),
        [{"text": "It rained.", "text_pair": "What? Rain", "question_id": "3.8", "label": "1"}],
    ),
    "conll2003": (
        [{"id": "0", "tokens": ["Ada", "Lovelace", "sat"], "ner_tags": [1, 2, 0]}],
        Features({"id": TEXT, "tokens": Sequence(TEXT), "ner_tags": NER}),
        [{"tokens": ["Ada", "Lovelace", "sat"], "tags": ["B-PER", "I-PER", "O"]}],
    ),
    "conllpp": (
        [{"tokens": ["Ada"], "ner_tags": [1]}],
        Features({"tokens": Sequence(TEXT), "ner_tags": NER}),
        [{"tokens": ["Ada"], "tags": ["B-PER"]}],
    ),
    "wnut": (
        [{"tokens": ["Ada"], "ner_tags": [1]}],
        Features({"tokens": Sequence(TEXT), "ner_tags": NER}),
        [{"tokens": ["Ada"], "tags": ["B-PER"]}],
    ),
    "ontonotes": (
        [
            {"document_id": "d", "sentences": [
                {"words": ["Ada"], "named_entities": [1]}, {"words": ["x"], "named_entities": [0]},
            ]}
        ],
        Features({"document_id": TEXT, "sentences": [{"words": Sequence(TEXT), "named_entities": NER}]}),
        [{"tokens": ["Ada"], "tags": ["B-PER"]}, {"tokens": ["x"], "tags": ["O"]}],
    ),
    "conll04": (
        [
            {"tokens": ["New", "York", "Ada"], "entities": [
                {"start": 0, "end": 2, "type": "Loc"}, {"start": 2, "end": 3, "type": "Peop"},
            ]}
        ],
        None,
        [{"tokens": ["New", "York", "Ada"], "tags": ["B-Loc", "I-Loc", "B-Peop"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_hubs_columns_become_rows_of_the_task(tmp_path: Path, name: str) -> None:
    rows, features, expected = CASES[name]
    corpus = corpora.find(name)
    found = corpus.read(publish(tmp_path / "set", rows, features, corpus.subset or ""))
    assert found.train.rows == found.dev.rows == expected
    for table in found.tests.values():
        assert table.rows == expected


def test_every_corpus_has_a_case_here_or_is_a_split_of_one() -> None:
    assert set(corpora.names()) - set(CASES) == {"xsum_news_to_sports", "xsum_within_news"}


def test_a_hub_data_set_with_addresses_is_parted_by_topic(tmp_path: Path) -> None:
    urls = ["http://www.bbc.co.uk/news/uk-1", "http://www.bbc.co.uk/sport/golf/2", "http://www.bbc.co.uk/news/health-3"]
    rows = [{"document": url[-1], "summary": "s", "id": "1", "url": url} for url in urls]
    folder = publish(tmp_path / "set", rows)
    sports = corpora.find("xsum_news_to_sports").read(folder)
    assert [row["source"] for row in sports.train.rows] == ["1", "3"]
    assert [row["source"] for row in sports.tests["test"].rows] == ["2"]
    within = corpora.find("xsum_within_news").read(folder)
    assert [row["source"] for row in within.dev.rows] == ["1"]
    assert [row["source"] for row in within.tests["test"].rows] == ["3"]


def test_two_folders_of_one_name_are_two_data_sets(tmp_path: Path) -> None:
    folders = [
        publish(tmp_path / place / "set", [{"document": place, "summary": "s", "id": "1"}]) for place in ("one", "two")
    ]
    assert [corpora.find("xsum").read(folder).train.rows[0]["source"] for folder in folders] == ["one", "two"]


def test_tags_that_are_numbers_without_names_are_refused(tmp_path: Path) -> None:
    folder = publish(tmp_path / "set", [{"tokens": ["Ada"], "tags": [3]}])
    with pytest.raises(DataError, match="the tags are numbers without names"):
        corpora.find("wnut").read(folder)


def test_a_hub_data_set_without_the_columns_is_named(tmp_path: Path) -> None:
    folder = publish(tmp_path / "set", [{"article": "a", "highlights": "b"}])
    with pytest.raises(DataError, match="line 1: no column 'document'; it has article, highlights"):
        corpora.find("xsum").read(folder)
    with pytest.raises(DataError, match="expected tokens and tags or ner_tags or labels, got article, highlights"):
        corpora.find("conll2003").read(folder)


def test_a_split_that_is_missing_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    Dataset.from_list([{"document": "a", "summary": "b"}]).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DataError, match="Unknown split .validation.. Should be one of .'train'."):
        corpora.find("xsum").read(str(tmp_path))


def test_what_is_neither_a_folder_nor_on_the_hub_is_named() -> None:
    with pytest.raises(DataError, match="'nobody/nothing' is not a local folder and could not be fetched from the hub"):
        corpora.find("xsum").read("nobody/nothing")


@pytest.mark.parametrize("name", [name for name in CASES if isinstance(corpora.find(name), SuperGlue)])
@pytest.mark.parametrize("inside", [False, True])
def test_a_superglue_of_the_hub_that_was_saved_as_jsonl_is_no_original(tmp_path: Path, name: str, inside: bool) -> None:
    rows, features, _ = CASES[name]
    corpus = corpora.find(name)
    assert isinstance(corpus, SuperGlue)
    home = tmp_path / corpus.folder if inside else tmp_path
    home.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        Dataset.from_list(rows, features=features).to_json(str(home / f"{split}.jsonl"))
    found = corpus.read(str(tmp_path))
    numbers = {"cb": "2", "rte": "1"}  # such files have the numbers of classes, not their names
    wanted = [{**row, "label": numbers.get(name, row["label"])} for row in CASES[name][2]]
    assert [{**row, "label": type(wanted[0]["label"])(row["label"])} for row in found.train.rows] == wanted
    assert found.dev.rows == found.tests["dev"].rows == found.train.rows


def test_files_that_are_partly_superglues_are_still_named_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "passage": "p", "label": true}\n')
    with pytest.raises(DataError, match="there is no file .*val.jsonl"):
        corpora.find("boolq").read(str(tmp_path))


def test_what_a_map_left_beside_a_saved_data_set_is_no_part_of_it(tmp_path: Path) -> None:
    rows, features, expected = CASES["boolq"]
    table = Dataset.from_list(rows, features=features)
    DatasetDict({"train": table, "validation": table}).save_to_disk(str(tmp_path))
    load_from_disk(str(tmp_path)).map(lambda row: {"question": row["question"].upper()})
    assert list((tmp_path / "train").glob("cache-*.arrow"))  # which the datasets library would read as rows
    found = corpora.find("boolq").read(str(tmp_path))
    assert found.train.rows == found.dev.rows == expected
    with pytest.raises(DataError, match="Unknown split 'test'. Should be one of"):
        read(str(tmp_path), split="test")


def test_other_files_beside_the_splits_of_a_hub_set_saved_as_jsonl_are_not_read(tmp_path: Path) -> None:
    rows, features, expected = CASES["boolq"]
    for name in ("train", "validation", "test", "train_small", "dev"):
        Dataset.from_list(rows, features=features).to_json(str(tmp_path / f"{name}.jsonl"))
    found = corpora.find("boolq").read(str(tmp_path))
    assert len(found.train) == len(found.dev) == len(expected)


def test_ontonotes_is_the_shared_tasks_release_and_not_the_larger_one(tmp_path: Path) -> None:
    """Its card has both; 59,924 / 8,528 / 8,262 sentences with names are those of release 4."""
    rows, features, expected = CASES["ontonotes"]
    card, files = "", ("train", "validation", "test")
    for subset, copies in (("english_v4", 1), ("english_v12", 5)):
        publish(tmp_path / "set", rows * copies, features, subset)
        paths = "".join(f"  - split: {split}\n    path: {subset}/{split}-*\n" for split in files)
        card += f"- config_name: {subset}\n  data_files:\n{paths}"
        (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    found = corpora.find("ontonotes").read(str(tmp_path / "set"))
    assert found.train.rows == found.dev.rows == found.tests["test"].rows == expected


def test_a_folder_of_other_files_is_no_hub_data_set(tmp_path: Path) -> None:
    """Texts in columns of somebody's own are not loaded to find that they lack the corpus's."""
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "devset.csv").write_text("mr,ref\nname[Bo],Bo.\n")
    with pytest.raises(DataError, match="holds no files of dart; expected dart-v1.1.1-full-train.json"):
        corpora.find("dart").read(str(tmp_path))
