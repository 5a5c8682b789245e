"""Data in the forms they are handed out in: CoNLL-2012's columns, SpERT's spans, `save_to_disk` folders, many names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from test_cli import flags, refused, texts

from prefixtune import corpora, tasks
from prefixtune.cli import main
from prefixtune.errors import DataError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- CoNLL-2012 --------------------------------------------------------------------------------------------------

# Written by hand after the shared task's table of columns: document, part, number of the word, word, part of speech,
# parse, lemma, frameset, sense, speaker, name, arguments of every verb (none and two here), coreference.
GOLD = """\
#begin document (bc/ours/00/ours_0000); part 000
bc/ours/00/ours_0000   0   0        Ada    NNP  (TOP(S(NP*    -    -   -   Ann#1  (PERSON*     (ARG0*       *     (3
bc/ours/00/ours_0000   0   1      Byron    NNP           *)   -    -   -   Ann#1         *)         *)      *      3)
bc/ours/00/ours_0000   0   2       left    VBD        (VP*  leave  01  1   Ann#1         *        (V*)      *      -
bc/ours/00/ours_0000   0   3      Rome     NNP        (NP*    -    -   -   Ann#1     (GPE)      (ARG1*)     *    (12)
bc/ours/00/ours_0000   0   4      early     RB       (NP*     -    -   -   Ann#1   (DATE*           *       *      -
bc/ours/00/ours_0000   0   5       this     DT          *     -    -   -   Ann#1         *          *       *      -
bc/ours/00/ours_0000   0   6       May     NNP         *))))  -    -   -   Ann#1         *)         *       *      -

bc/ours/00/ours_0000   0   0         #      NN   (TOP(NP*     -    -   -   Ann#1  (CARDINAL*   -
bc/ours/00/ours_0000   0   1        4       CD          *))   -    -   -   Ann#1         *)    -
#end document
#begin document (bc/ours/00/ours_0000); part 001
bc/ours/00/ours_0000   1   0       Yes      UH    (TOP(INTJ*)) -   -   -   Bo#2          *     -

#end document
"""
READ = [
    {
        "tokens": ["Ada", "Byron", "left", "Rome", "early", "this", "May"],
        "tags": ["B-PERSON", "I-PERSON", "O", "B-GPE", "B-DATE", "I-DATE", "I-DATE"],
    },
    {"tokens": ["#", "4"], "tags": ["B-CARDINAL", "I-CARDINAL"]},
    {"tokens": ["Yes"], "tags": ["O"]},
]


def document(name: str, word: str = "Rome", kind: str = "(GPE)") -> str:
    """A document of one sentence."""
    return f"#begin document ({name}); part 000\n{name} 0 0 {word} NNP (TOP*) - - - - {kind} -\n\n#end document\n"


def plain(table: Any) -> list[dict[str, Any]]:
    return [{"tokens": row["tokens"], "tags": row["tags"]} for row in table.rows]


@pytest.mark.parametrize("separator", ["   ", "\t"])
def test_conll_2012_has_its_word_fourth_and_its_name_eleventh(tmp_path: Path, separator: str) -> None:
    lines = [line if line.startswith("#") else separator.join(line.split()) for line in GOLD.split("\n")]
    found = tasks.read(str(write(tmp_path / "x.conll", "\n".join(lines))))
    assert plain(found) == READ
    assert found.lines == [2, 10, 14]
    task = tasks.find("tagging").learn(found)
    assert task.prepared(found).rows == READ


@pytest.mark.parametrize(
    "files",
    [
        ("train.conll", "development.conll", "test.conll"),
        ("train.txt", "dev.txt", "test.txt"),
        ("train.english.v4_gold_conll", "development.english.v4_gold_conll", "test.english.v4_gold_conll"),
        ("train.english.v4_gold_conll", "dev.english.v4_gold_conll", "test.english.v4_gold_conll"),
        ("train.gold_conll", "development.gold_conll", "test.gold_conll"),
    ],
)
def test_ontonotes_is_read_from_files_of_conll_2012(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        write(tmp_path / file, GOLD)
    found = corpora.find("ontonotes").read(str(tmp_path))
    assert found.train.rows == found.dev.rows == found.tests["test"].rows == READ


def tree(folder: Path, split: str, name: str, text: str, language: str = "english", version: str = "v4") -> Path:
    """A document where the shared task's scripts put it."""
    inside = folder / "conll-2012" / version / "data" / split / "data" / language / "annotations"
    return write(inside / f"{name}.{version}_gold_conll", text)


def test_ontonotes_is_read_from_the_shared_tasks_tree(tmp_path: Path) -> None:
    tree(tmp_path, "train", "nw/b/00/b_0001", document("nw/b/00/b_0001", "Bern"))
    tree(tmp_path, "train", "bc/ours/00/ours_0000", GOLD)
    tree(tmp_path, "train", "bc/x/00/x_0000", document("bc/x/00/x_0000"), "chinese")
    tree(tmp_path, "development", "nw/d/00/d_0001", document("nw/d/00/d_0001", "Dijon"))
    skeleton = tree(tmp_path, "development", "nw/d/00/d_0001", document("nw/d/00/d_0001", "[WORD]"))
    skeleton.rename(skeleton.with_suffix(".v4_gold_skel"))
    tree(tmp_path, "development", "nw/d/00/d_0001", document("nw/d/00/d_0001", "Dijon"))
    tree(tmp_path, "test", "nw/t/00/t_0001", document("nw/t/00/t_0001", "Turin"), version="v9")
    found = corpora.find("ontonotes").read(str(tmp_path))
    assert found.train.rows == [*READ, {"tokens": ["Bern"], "tags": ["B-GPE"]}]
    assert [row["tokens"] for row in found.dev.rows] == [["Dijon"]]
    assert [row["tokens"] for row in found.tests["test"].rows] == [["Turin"]]
    tree(tmp_path, "conll-2012-test", "nw/u/00/u_0001", document("nw/u/00/u_0001", "Ulm"))
    found = corpora.find("ontonotes").read(str(tmp_path))
    assert [row["tokens"] for row in found.tests["test"].rows] == [["Ulm"]]  # the shared task's own, of two test sets


def test_a_tree_without_a_split_or_with_a_document_twice_is_named(tmp_path: Path) -> None:
    first = tree(tmp_path, "train", "nw/b/00/b_0001", document("nw/b/00/b_0001"))
    with pytest.raises(DataError, match="ontonotes: no .gold_conll file of development in .*; expected train.conll, "):
        corpora.find("ontonotes").read(str(tmp_path))
    for split in ("development", "test"):
        tree(tmp_path, split, "nw/d/00/d_0001", document("nw/d/00/d_0001"))
    second = tree(tmp_path, "train", "nw/b/00/b_0001", document("nw/b/00/b_0001"), version="v9")
    complaint = f"nw/b/00/b_0001; part 000 is in {first} and in {second}; name the folder of one version"
    with pytest.raises(DataError, match=re.escape(complaint)):
        corpora.find("ontonotes").read(str(tmp_path))


def test_ontonotes_leaves_out_the_new_testament_whose_names_nobody_marked(tmp_path: Path) -> None:
    text = document("nw/b/00/b_0001") + document("pt/nt/40/nt_4001", "Paul", "*")
    for split in ("train", "development", "test"):
        write(tmp_path / f"{split}.conll", text)
    found = corpora.find("ontonotes").read(str(tmp_path))
    assert found.train.rows == found.tests["test"].rows == [{"tokens": ["Rome"], "tags": ["B-GPE"]}]
    assert len(tasks.read(str(tmp_path / "train.conll"))) == 2  # a file of one's own is read as it is
    write(tmp_path / "test.conll", document("pt/nt/40/nt_4001", "Paul", "*"))
    with pytest.raises(DataError, match="test.conll: nothing but the New Testament"):
        corpora.find("ontonotes").read(str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("      *)         *)      *      3)", "(PERSON*)         *)      *      3)", r"line 3: .*'\(PERSON\*\)'"),
        ("(PERSON*     (ARG0*", "*     (ARG0*", r"line 3: .*'\*\)'"),
        ("     (GPE)  ", "     (GPE   ", r"line 5: .*'\(GPE'"),
        ("     (GPE)  ", "     (GPE(ORG)*)   ", r"line 5: .*'\(GPE\(ORG\)\*\)'"),
        ("     (GPE)  ", "     (23)   ", r"line 5: .*'\(23\)'"),
        ("     (GPE)  ", "     -   ", r"line 5: .*'-'"),
        ("     (GPE)  ", "     B-GPE   ", r"line 5: .*'B-GPE'"),
        ("-\nbc/ours/00/ours_0000   0   5", "-\n\nbc/ours/00/ours_0000   0   5", "line 6: .*DATE.*is never closed"),
        ("  Ann#1         *)    -\n#end", "  Ann#1\n#end", "line 11: 10 columns; expected 12 or more"),
    ],
)
def test_brackets_that_say_nothing_are_named_with_file_and_line(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert GOLD.count(old) == 1
    with pytest.raises(DataError, match=f"x.conll, {complaint}") as caught:
        tasks.read(str(write(tmp_path / "x.conll", GOLD.replace(old, new))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("end", "line"), [("(PERSON", 2), ("*)         *)  ", 3), ("this", 7), ("May", 8)])
def test_a_conll_2012_file_that_was_cut_within_a_line_or_a_name_is_refused(tmp_path: Path, end: str, line: int) -> None:
    with pytest.raises(DataError, match=f"x.conll, line {line}: "):
        tasks.read(str(write(tmp_path / "x.conll", GOLD[: GOLD.index(end)])))


def test_columns_whose_last_one_is_no_entity_are_refused_before_training(tmp_path: Path) -> None:
    text = "\n".join(line for line in GOLD.split("\n") if not line.startswith("#"))  # no mark to know the form by
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.conll", text)
    complaint = r"train.conll, line 1: the tag '\(3'; expected O, or a mark \(B, I, E, S, L, U\), a hyphen and a type"
    with pytest.raises(DataError, match=complaint):
        corpora.find("wnut").read(str(tmp_path))


def test_numbers_of_tags_in_the_sentences_of_a_document_are_refused_without_their_names(tmp_path: Path) -> None:
    sentences = [{"words": ["x"], "named_entities": []}, {"words": ["Ada", "B"], "named_entities": [1, 2]}]
    for split in ("train", "validation", "test"):
        Dataset.from_list([{"document_id": "d", "sentences": sentences}]).to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(DataError, match=r"line 1: the tags are numbers without names \(\[1, 2\]\)"):
        corpora.find("ontonotes").read(str(tmp_path))


def test_the_hubs_new_testament_is_left_out_too(tmp_path: Path) -> None:
    documents = [
        {"document_id": name, "sentences": [{"words": ["Paul"], "named_entities": [tag]}]}
        for name, tag in (("pt/nt/40/nt_4001", "O"), ("nw/b/00/b_0001", "B-PERSON"))
    ]
    for split in ("train", "validation", "test"):
        Dataset.from_list(documents).to_parquet(str(tmp_path / f"{split}.parquet"))
    assert corpora.find("ontonotes").read(str(tmp_path)).dev.rows == [{"tokens": ["Paul"], "tags": ["B-PERSON"]}]


# --- CoNLL-2003 and CoNLL-2004 -----------------------------------------------------------------------------------

LINES = "-DOCSTART- -X- O O\n\nAda NNP I-NP I-PER\nsat VBD I-VP O\n"


@pytest.mark.parametrize(
    "files",
    [
        ("eng.train", "eng.testa", "eng.testb"),
        ("train.txt", "valid.txt", "test.txt"),
        ("train.txt", "dev.txt", "test.txt"),
        ("train.txt", "testa.txt", "testb.txt"),
    ],
)
def test_conll2003_is_read_under_every_name_of_its_development_set(tmp_path: Path, files: tuple[str, ...]) -> None:
    for number, file in enumerate(files):
        write(tmp_path / file, LINES.replace("Ada", f"Ada{number}"))
    found = corpora.find("conll2003").read(str(tmp_path))
    first = [table.rows[0] for table in (found.train, found.dev, found.tests["test"])]
    assert first == [{"tokens": [f"Ada{number}", "sat"], "tags": ["I-PER", "O"]} for number in range(3)]


def test_of_the_names_of_a_corpus_those_are_meant_that_most_files_have(tmp_path: Path) -> None:
    for file in ("train.txt", "dev.txt"):
        write(tmp_path / file, LINES)
    with pytest.raises(DataError, match="conll2003: there is no file .*/test.txt"):
        corpora.find("conll2003").read(str(tmp_path))


SPERT = {
    "tokens": ["New", "York", "loves", "Ada", "Byron", "."],
    "entities": [{"type": "Loc", "start": 0, "end": 2}, {"type": "Peop", "start": 3, "end": 5}],
    "relations": [{"type": "Live_In", "head": 1, "tail": 0}], "orig_id": 1,
}  # fmt: skip


def test_conll04_is_read_from_sperts_spans(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"conll04_{split}.json", json.dumps([SPERT]))
    corpus = corpora.find("conll04")
    found = corpus.read(str(tmp_path))
    expected = [{"tokens": SPERT["tokens"], "tags": ["B-Loc", "I-Loc", "O", "B-Peop", "I-Peop", "O"]}]
    assert found.train.rows == found.dev.rows == found.tests["test"].rows == expected
    assert tasks.find(corpus.task).learn(found.train, **corpus.options).prepared(found.train).rows == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"entities": None}, "expected a list of entities, got 'None'"),
        ({"entities": ["Loc"]}, "the entity 'Loc' needs type, start and end"),
        ({"entities": [{"type": "Loc", "start": 0}]}, "the entity .* needs type, start and end"),
        ({"entities": [{"type": "Loc", "start": "0", "end": 2}]}, "the entity .* needs a name as type, whole numbers"),
        ({"entities": [{"type": "Loc", "start": 5, "end": 7}]}, "the entity .* does not lie within the 6 tokens"),
        ({"entities": [*SPERT["entities"], SPERT["entities"][0]]}, "the entity .* overlaps another"),
        ({"tokens": "New York"}, "expected a list of tokens, got 'New York'"),
    ],
)
def test_a_span_of_conll04_that_cannot_be_tagged_is_named_with_its_row(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"conll04_{split}.json", json.dumps([SPERT, {**SPERT, **change}]))
    with pytest.raises(DataError, match=f"conll04_train.json, line 2: {complaint}"):
        corpora.find("conll04").read(str(tmp_path))


def test_a_row_of_conll04_with_neither_tags_nor_entities_says_what_it_has(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"conll04_{split}.json", json.dumps([{"tokens": ["a"]}]))
    with pytest.raises(DataError, match="line 1: neither tags nor entities; it has tokens"):
        corpora.find("conll04").read(str(tmp_path))


def test_roth_and_yihs_own_file_is_refused_with_the_form_that_is_read(tmp_path: Path) -> None:
    rows = ["0\tPeop\t0\tO\tNNP/NNP\tAda/Byron\tO\tO\tO", "0\tO\t1\tO\tVBD\tlived\tO\tO\tO", "", "0\t1\tLive_In", ""]
    write(tmp_path / "conll04.corp", "\n".join(rows))
    complaint = r"conll04.corp is Roth & Yih's own form, which is not read; expected .*conll04_train.json.*SpERT"
    with pytest.raises(DataError, match=complaint):
        corpora.find("conll04").read(str(tmp_path))
    for split in ("train", "dev", "test"):
        write(tmp_path / f"conll04_{split}.json", json.dumps([SPERT]))
    assert len(corpora.find("conll04").read(str(tmp_path)).train) == 1  # beside the JSON files it is in nobody's way


# --- save_to_disk ------------------------------------------------------------------------------------------------

NER = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-X"]))})


def test_a_folder_of_save_to_disk_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "B"], "tags": [0, 1]}, {"tokens": ["C"], "tags": [1]}]
    data = Dataset.from_list(rows, features=NER)
    data.save_to_disk(str(tmp_path / "whole"))
    expected = [{"tokens": ["a", "B"], "tags": ["O", "B-X"]}, {"tokens": ["C"], "tags": ["B-X"]}]
    for split in (None, "train", "validation"):
        assert tasks.read(str(tmp_path / "whole"), split=split).rows == expected
    data.select([1]).save_to_disk(str(tmp_path / "part"))  # which keeps all rows, and which of them are meant
    assert tasks.read(str(tmp_path / "part")).rows == expected[1:]


def test_one_table_of_save_to_disk_is_not_taken_for_every_split_of_a_corpus(tmp_path: Path) -> None:
    features = Features({"tokens": List(Value("string")), "ner_tags": NER["tags"]})
    data = Dataset.from_list([{"tokens": ["a"], "ner_tags": [1]}], features=features)
    data.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="one is one table of save_to_disk; expected a DatasetDict's folder"):
        corpora.find("conllpp").read(str(tmp_path / "one"))
    DatasetDict(train=data, validation=data, test=data).save_to_disk(str(tmp_path / "three"))
    assert corpora.find("conllpp").read(str(tmp_path / "three")).dev.rows == [{"tokens": ["a"], "tags": ["B-X"]}]


def test_a_damaged_folder_of_save_to_disk_is_one_line(tmp_path: Path) -> None:
    Dataset.from_list([{"tokens": ["a"], "tags": [0]}], features=NER).save_to_disk(str(tmp_path / "set"))
    for text in ("{", "{}"):
        write(tmp_path / "set" / "state.json", text)
        with pytest.raises(DataError, match="set' is not a local file, and loading it as a hub data set failed"):
            tasks.read(str(tmp_path / "set"))


def test_training_takes_a_folder_of_save_to_disk_for_each_table(tmp_path: Path, capsys: Any) -> None:
    model = tiny.encoder(tmp_path / "base")
    argv = ["train", "--model", model, "--task", "tagging", "--method", "p_tuning_v2", "--length", "2", "--epochs", "1"]
    for role, rows in (("train", 16), ("eval", 4), ("test", 3)):
        Dataset.from_list(tiny.capitals(rows, 1)).save_to_disk(str(tmp_path / role))
        argv += [f"--{role}", str(tmp_path / role)]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err


# --- what generate and evaluate are given -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that generates, one that does not, and the sources `a` and `b` as two splits."""
    place = tmp_path_factory.mktemp("answering")
    tiny.encoder(place / "bert")
    tiny.decoder(place / "gpt2")
    tiny.jsonl(place / "classes.jsonl", tiny.first_letter(8, 1))
    tiny.jsonl(place / "texts.jsonl", tiny.doubled(8, 1))
    assert main(flags(place, place / "one", *texts(place), "--max-new-tokens", "2")) == 0
    assert main(flags(place, place / "classes")) == 0
    parts = {name: Dataset.from_list([{"source": text}]) for name, text in (("validation", "a"), ("test", "b"))}
    DatasetDict(parts).save_to_disk(str(place / "dd"))
    (place / "plain.txt").write_text("a\nb\n")
    return place


def test_generate_answers_a_split(answering: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--prefix", str(answering / "one"), "--input", str(answering / "dd")]
    assert "has the splits validation, test; choose one (--split" in refused(argv, capsys)
    for split, source in (("validation", "a"), ("test", "b")):
        assert main([*argv, "--split", split]) == 0
        assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == [source]


def test_a_file_without_a_text_is_refused(answering: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (answering / "blank.txt").write_text("\n \n")
    argv = ["generate", "--prefix", str(answering / "one"), "--input", str(answering / "blank.txt")]
    assert "blank.txt is empty: expected at least one line of text" in refused(argv, capsys)


@pytest.mark.parametrize("option", ["--columns=source=x", "--split=test", "--subset=x", "--data-format=csv"])
def test_an_option_that_says_nothing_of_a_text_is_refused(
    answering: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "--prefix", str(answering / "one"), option]
    name, _, value = option.partition("=")
    assert f"{name} {value}: --prompt is one text; leave it out" in refused([*argv, "--prompt", "a"], capsys)
    if name != "--data-format":  # with which the file is one of columns
        told = refused([*argv, "--input", str(answering / "plain.txt")], capsys)
        assert f"{name} {value}: " in told and "plain.txt is plain texts, one a line; leave it out" in told


@pytest.mark.parametrize("option", [["--beams", "2"], ["--max-new-tokens", "3"], ["--sample", "--seed", "1"]])
def test_a_way_of_decoding_is_refused_where_nothing_is_generated(
    answering: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "--prefix", str(answering / "classes"), "--data", str(answering / "classes.jsonl"), *option]
    assert ": this prefix is one of classification, which generates no text" in refused(argv, capsys)
