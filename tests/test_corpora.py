"""The corpora from their original files: tiny ones of our own in each format, and the real ones where they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from prefixtune import corpora, metrics, tasks
from prefixtune.corpora import e2e, news, wsc
from prefixtune.errors import ConfigError, DataError
from prefixtune.tasks import Table
from prefixtune.tasks.text2text import grouped


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def rows(table: Any) -> list[dict[str, Any]]:
    return table.rows


# --- text to text ------------------------------------------------------------------------------------------------


def test_e2e_is_linearised_as_prefix_tuning_has_it(tmp_path: Path) -> None:
    line = '"name[Bo\'s], eatType[pub], priceRange[£10-15], familyFriendly[no]","Bo\'s,\n a pub."\n'
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        write(tmp_path / name, "mr,ref\n" + line)
    found = corpora.find("e2e").read(str(tmp_path))
    source = "name : Bo's | Type : pub | price : £ 10 - 15 | family friendly : no"
    assert rows(found.train) == rows(found.tests["test"]) == [{"source": source, "target": "Bo's, a pub."}]


def test_a_meaning_that_is_none_is_named_with_its_row(tmp_path: Path) -> None:
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        write(tmp_path / name, "mr,ref\nname[Bo],x\nname Bo,y\n")
    with pytest.raises(DataError, match=r"trainset.csv, line 3: 'name Bo' is no meaning representation"):
        corpora.find("e2e").read(str(tmp_path))


def test_a_message_about_e2e_names_the_papers_own_data_set_alone(tmp_path: Path) -> None:
    """GEM's on the hub is the cleaned E2E: other rows and references than those of the papers' scores."""
    with pytest.raises(DataError, match=r"or the hub data set tuetschek/e2e_nlg$"):
        corpora.find("e2e").read(str(tmp_path))


def entry(category: str, number: int, triples: list[str], texts: list[tuple[str, str]]) -> str:
    inner = "".join(f"<mtriple>{triple}</mtriple>" for triple in triples)
    lexes = "".join(f'<lex comment="{comment}" lid="Id{i}">{text}</lex>' for i, (comment, text) in enumerate(texts))
    start = f'<entry category="{category}" eid="Id{number}" size="{len(triples)}">'
    return f"{start}<modifiedtripleset>{inner}</modifiedtripleset>{lexes}</entry>"


def benchmark(*entries: str) -> str:
    return f"<benchmark><entries>{''.join(entries)}</entries></benchmark>"


def test_webnlg_keeps_good_texts_and_parts_its_test_by_category(tmp_path: Path) -> None:
    bridge = entry("Bridge", 1, ["Arch_Bridge | spans | Wye"], [("good", "It spans\nthe Wye."), ("toFix", "bad")])
    triples = ["Ann | born | 1901", "Ann | died | 1970"]
    painter = entry("Painter", 2, triples, [("good", "Ann lived."), ("good", "Ann.")])
    write(tmp_path / "train" / "1triples" / "a.xml", benchmark(bridge))
    write(tmp_path / "dev" / "1triples" / "b.xml", benchmark(bridge))
    write(tmp_path / "test" / "testdata_with_lex.xml", benchmark(bridge, painter))
    found = corpora.find("webnlg").read(str(tmp_path))
    seen = {"source": "| Arch_Bridge : spans : Wye", "target": "It spans the Wye.", "category": "Bridge"}
    assert rows(found.train) == rows(found.dev) == rows(found.tests["seen"]) == [seen]
    assert [(row["source"], row["target"]) for row in rows(found.tests["unseen"])] == [
        ("| Ann : born : 1901 | Ann : died : 1970", "Ann lived."),
        ("| Ann : born : 1901 | Ann : died : 1970", "Ann."),
    ]
    assert len(found.tests["all"]) == 3


def test_webnlg_says_what_is_malformed(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.xml", benchmark(entry("X", 7, ["no triple"], [("good", "t")])))
    with pytest.raises(DataError, match=r"no .xml file in .*dev; expected train/\*\*/\*.xml"):
        corpora.find("webnlg").read(str(tmp_path))
    write(tmp_path / "dev" / "a.xml", benchmark())
    write(tmp_path / "test" / "testdata_with_lex.xml", benchmark())
    with pytest.raises(DataError, match=r"a.xml, entry Id7: .'no triple'. are no triples"):
        corpora.find("webnlg").read(str(tmp_path))
    write(tmp_path / "train" / "a.xml", "<benchmark><entries>")
    with pytest.raises(DataError, match="a.xml: not valid XML"):
        corpora.find("webnlg").read(str(tmp_path))


def test_dart_has_its_relations_in_lower_case(tmp_path: Path) -> None:
    given = {
        "tripleset": [["Rovers", "HOME_GROUND", "The Den"], ["Rovers", "WINS", "3"]],
        "annotations": [{"source": "x", "text": "Rovers play at\nthe Den."}, {"source": "x", "text": "Three wins."}],
    }
    for split in ("train", "dev", "test"):
        write(tmp_path / f"dart-v1.1.1-full-{split}.json", json.dumps([given]))
    found = corpora.find("dart").read(str(tmp_path))
    source = "Rovers : home_ground : The Den | Rovers : wins : 3"
    assert grouped(found.tests["test"]) == {source: ["Rovers play at the Den.", "Three wins."]}


def test_the_words_of_a_conllx_file_stand_behind_their_numbers(tmp_path: Path) -> None:
    lines = ["1\tWest\t_\tNNP\tNNP\t_\t2\tcompound\t_\t_\tB-GPE", "2\tBank\t_\tNNP\tNNP\t_\t0\troot\t_\t_\tI-GPE"]
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.sd.conllx", "\n".join(lines) + "\n")
    found = corpora.find("ontonotes").read(str(tmp_path))
    assert rows(found.train) == [{"tokens": ["West", "Bank"], "tags": ["B-GPE", "I-GPE"]}]


def test_a_line_of_xsum_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.source", "one\u2028still one\ntwo\n")
        write(tmp_path / f"{split}.target", "first\nsecond\x1cstill second\n")
    found = corpora.find("xsum").read(str(tmp_path))
    assert [row["target"] for row in rows(found.train)] == ["first", "second\x1cstill second"]


def summary(path: Path, url: str, first: str, rest: str) -> None:
    parts = {"URL": url, "TITLE": "t", "FIRST-SENTENCE": first, "RESTBODY": rest}
    write(path, "\n\n".join(f"[SN]{name}[SN]\n{text}" for name, text in parts.items()))


@pytest.fixture
def xsum(tmp_path: Path) -> Path:
    """Articles of five topics, each in every split, in the original form."""
    urls = {
        "w": "http://www.bbc.co.uk/news/world-europe-1", "b": "http://www.bbc.com/news/business-2",
        "h": "http://www.bbc.co.uk/news/health-3", "s": "http://www.bbc.co.uk/sport/football/4",
        "u": "http://www.bbc.co.uk/news/uk-england-devon-5",
    }  # fmt: skip
    for name, url in urls.items():
        summary(tmp_path / news.FOLDER / f"{name}.summary", url, f"{name} first.", f"{name} one\n{name} two")
    splits = {split: list(urls) for split in ("train", "validation", "test")}
    write(tmp_path / news.SPLITS, json.dumps(splits))
    return tmp_path


def topics(table: Any) -> str:
    return "".join(row["target"][0] for row in table.rows)


def test_xsum_is_an_article_and_its_first_sentence(xsum: Path) -> None:
    found = corpora.find("xsum").read(str(xsum))
    assert found.train.rows[0] == {
        "source": "w one w two", "target": "w first.", "url": "http://www.bbc.co.uk/news/world-europe-1",
    }  # fmt: skip
    assert topics(found.tests["test"]) == "wbhsu"


def test_xsum_by_topic_trains_on_some_and_tests_on_others(xsum: Path) -> None:
    sports = corpora.find("xsum_news_to_sports").read(str(xsum))
    assert (topics(sports.train), topics(sports.dev), topics(sports.tests["test"])) == ("wbhu", "wbhu", "s")
    within = corpora.find("xsum_within_news").read(str(xsum))
    assert (topics(within.train), topics(within.dev), topics(within.tests["test"])) == ("wbu", "wbu", "h")


def test_xsum_one_text_a_line_is_read_and_tells_no_topic(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.source", "an article\nanother\n")
        write(tmp_path / f"{split}.target", "one\ntwo\n")
    assert rows(corpora.find("xsum").read(str(tmp_path)).dev)[1] == {"source": "another", "target": "two"}
    with pytest.raises(DataError, match=r"no address, so no topic; the splits by topic need the original files"):
        corpora.find("xsum_within_news").read(str(tmp_path))
    write(tmp_path / "val.target", "one\n")
    with pytest.raises(DataError, match="val.source has 2 lines but val.target 1"):
        corpora.find("xsum").read(str(tmp_path))


def test_the_bbcs_old_addresses_tell_their_topic_too() -> None:
    assert news.topic("http://news.bbc.co.uk/sport1/hi/football/1.stm") is None
    assert news.topic("http://www.bbc.co.uk/news/uk-wales-39403460") == "uk"
    assert news.topic("http://www.bbc.co.uk/news/entertainment-arts-3") == "entertainment"
    assert news.topic("https://www.bbc.com/sport/tennis/12") == "sport"


def test_scitldr_joins_sentences_and_keeps_every_summary(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        jsonl(tmp_path / f"{split}.jsonl", {"source": ["We do.", "It works."], "target": ["It works.", "We did."]})
    found = corpora.find("scitldr").read(str(tmp_path))
    assert grouped(found.dev) == {"We do. It works.": ["It works.", "We did."]}


# --- SuperGLUE ---------------------------------------------------------------------------------------------------

SUPERGLUE = {
    "boolq": ("BoolQ", {"question": "is it", "passage": "It is.", "label": True}),
    "cb": ("CB", {"premise": "I saw rain.", "hypothesis": "it rained", "label": "entailment"}),
    "copa": ("COPA", {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": "effect", "label": 1}),
    "rte": ("RTE", {"premise": "It rained.", "hypothesis": "It was wet.", "label": "entailment"}),
    "wic": (
        "WiC",
        {
            "word": "bank", "sentence1": "A bank.", "sentence2": "The banks.", "start1": 2, "end1": 6, "start2": 4,
            "end2": 9, "label": False,
        },
    ),
    "wsc": (
        "WSC",
        {
            "text": "The cat sat ; it slept.", "label": True,
            "target": {"span1_text": "the cat", "span1_index": 0, "span2_text": "it", "span2_index": 4},
        },
    ),
    "multirc": (
        "MultiRC",
        {
            "idx": 3,
            "passage": {
                "text": "It rained.",
                "questions": [
                    {
                        "idx": 8,
                        "question": "What?",
                        "answers": [{"text": "Rain", "label": 1}, {"text": "Sun", "label": 0}],
                    }
                ],
            },
        },
    ),
}  # fmt: skip
EXPECTED = {
    "boolq": [{"text": "is it", "text_pair": "It is.", "label": "true"}],
    "cb": [{"text": "I saw rain.", "text_pair": "it rained", "label": "entailment"}],
    "copa": [{"text": "It rained. so", "choices": ["a", "b"], "label": 1}],
    "rte": [{"text": "It rained.", "text_pair": "It was wet.", "label": "entailment"}],
    "wic": [
        {"text": "A bank.", "spans": [[2, 6]], "text_pair": "The banks.", "spans_pair": [[4, 9]], "label": "false"}
    ],
    "wsc": [{"text": "The cat sat ; it slept.", "spans": [[0, 7], [14, 16]], "label": "true"}],
    "multirc": [
        {"text": "It rained.", "text_pair": "What? Rain", "question_id": "3.8", "label": "1"},
        {"text": "It rained.", "text_pair": "What? Sun", "question_id": "3.8", "label": "0"},
    ],
}


@pytest.mark.parametrize("name", SUPERGLUE)
def test_superglues_files_become_rows_of_their_task(tmp_path: Path, name: str) -> None:
    folder, row = SUPERGLUE[name]
    for split in ("train", "val"):
        jsonl(tmp_path / folder / f"{split}.jsonl", row)
    corpus = corpora.find(name)
    found = corpus.read(str(tmp_path))
    assert rows(found.train) == rows(found.dev) == EXPECTED[name]
    assert list(found.tests) == ["dev"]
    assert corpus.read(str(tmp_path / folder)).train.rows == EXPECTED[name]  # the task's own folder does as well


def test_fewglue_tests_on_the_validation_set_and_chooses_on_32_rows(tmp_path: Path) -> None:
    folder, row = SUPERGLUE["boolq"]
    for split, question in (("train", "t"), ("dev32", "d"), ("val", "v")):
        jsonl(tmp_path / folder / f"{split}.jsonl", {**row, "question": question})
    found = corpora.find("boolq").read(str(tmp_path))
    assert [table.rows[0]["text"] for table in (found.train, found.dev, found.tests["val"])] == ["t", "d", "v"]


def test_fewglues_wsc_which_trains_on_one_label_is_dealt_out_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, row = SUPERGLUE["wsc"]
    labels = {"train": [True] * 5, "dev32": [True, False, False, False], "val": [True]}
    texts = iter("a b c d e a b f g v".split())  # the second part has twins of two of the first
    for split, values in labels.items():
        given = [{**row, "label": label, "text": f"{row['text']} {next(texts)}"} for label in values]
        jsonl(tmp_path / folder / f"{split}.jsonl", *given)
    found = corpora.find("wsc").read(str(tmp_path))
    dealt = [[row["label"] for row in table.rows] for table in (found.train, found.dev)]
    assert sorted(sorted(half) for half in dealt) == [["false"] * 2 + ["true"] * 3, ["false", "true", "true", "true"]]
    assert {row["text"] for row in found.train.rows}.isdisjoint(row["text"] for row in found.dev.rows)
    assert "dealt out anew" in caplog.text


def test_cb_is_not_read_as_rte(tmp_path: Path) -> None:
    for split in ("train", "val"):
        row = {"premise": "It rained.", "hypothesis": "It was dry.", "label": "contradiction"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="'contradiction' is none of RTE's two; is this CB"):
        corpora.find("rte").read(str(tmp_path))


def test_rte_is_read_from_glues_columns(tmp_path: Path) -> None:
    text = 'index\tsentence1\tsentence2\tlabel\n0\tHe said "no.\tHe spoke.\tentailment\n'
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.tsv", text)
    found = corpora.find("rte").read(str(tmp_path))
    assert rows(found.dev) == [{"text": 'He said "no.', "text_pair": "He spoke.", "label": "entailment"}]


def test_a_span_that_wsc_counts_wrongly_is_found_beside() -> None:
    text = "It ran , then it sat , then it slept"
    assert wsc.characters(text, "it", 7, "here") == [28, 30]
    assert wsc.characters(text, "it", 5, "here") == [14, 16]
    with pytest.raises(DataError, match="here: the span 'he' does not begin at any word"):
        wsc.characters("The cat", "he", 0, "here")


# --- tagging -----------------------------------------------------------------------------------------------------

LINES = "-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nsat VBD B-VP O\n\nRome NNP B-NP B-LOC\n"
SENTENCES = [{"tokens": ["Ada", "sat"], "tags": ["B-PER", "O"]}, {"tokens": ["Rome"], "tags": ["B-LOC"]}]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("conll2003", ("eng.train", "eng.testa", "eng.testb")),
        ("conll2003", ("train.txt", "valid.txt", "test.txt")),
        ("conllpp", ("conllpp_train.txt", "conllpp_dev.txt", "conllpp_test.txt")),
        ("ontonotes", ("train.conll", "development.conll", "test.conll")),
        ("wnut", ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")),
    ],
)
def test_columns_are_read_under_the_names_they_go_by(tmp_path: Path, name: str, files: tuple[str, ...]) -> None:
    for file in files:
        write(tmp_path / file, LINES)
    found = corpora.find(name).read(str(tmp_path))
    assert rows(found.train) == rows(found.dev) == rows(found.tests["test"]) == SENTENCES


def test_conll04_is_read_and_its_tags_become_iob2(tmp_path: Path) -> None:
    row = {"tokens": ["New", "York", "Ada"], "tags": ["B-Loc", "L-Loc", "U-Peop"], "relations": [], "orig_id": 1}
    for split in ("train", "dev", "test"):
        write(tmp_path / f"conll04_{split}.json", json.dumps([row]))
    corpus = corpora.find("conll04")
    found = corpus.read(str(tmp_path))
    assert rows(found.train) == [{"tokens": row["tokens"], "tags": row["tags"]}]
    task = tasks.find(corpus.task).learn(found.train, **corpus.options)
    assert task.prepared(found.train).rows[0]["tags"] == ["B-Loc", "I-Loc", "B-Peop"]


# --- what is not there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", corpora.names())
def test_an_empty_folder_is_answered_with_the_layout(tmp_path: Path, name: str) -> None:
    corpus = corpora.find(name)
    with pytest.raises(DataError) as caught:
        corpus.read(str(tmp_path))
    assert f"holds no files of {name}" in str(caught.value)
    assert corpus.layout in str(caught.value) and corpus.hub in str(caught.value)


@pytest.mark.parametrize(
    ("name", "there", "missing"),
    [
        ("e2e", "trainset.csv", "devset.csv"),
        ("conll2003", "eng.train", "eng.testa"),
        ("scitldr", "train.jsonl", "dev.jsonl"),
        ("boolq", "BoolQ/train.jsonl", "val.jsonl"),
        ("xsum", "train.source", "train.target"),
        ("conll04", "conll04_train.json", "conll04_dev.json"),
    ],
)
def test_a_file_that_is_missing_is_named_with_the_layout(tmp_path: Path, name: str, there: str, missing: str) -> None:
    (_, row) = SUPERGLUE["boolq"]
    texts = {"e2e": "mr,ref\nname[a],b\n", "conll2003": LINES, "boolq": json.dumps(row), "conll04": "[]", "xsum": "a\n"}
    texts["scitldr"] = json.dumps({"source": ["a"], "target": ["b"]})
    texts["conll04"] = json.dumps(SENTENCES)
    write(tmp_path / there, texts[name])
    with pytest.raises(DataError, match=f"there is no file .*{missing}; expected .*{Path(there).name}"):
        corpora.find(name).read(str(tmp_path))


def test_a_column_that_is_missing_is_named_with_its_row(tmp_path: Path) -> None:
    for split in ("train", "val"):
        jsonl(tmp_path / f"{split}.jsonl", {"question": "q", "label": True})
    with pytest.raises(DataError, match="train.jsonl, line 1: no column 'passage'; it has question, label"):
        corpora.find("boolq").read(str(tmp_path))


def test_an_unknown_data_set_and_a_lone_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown data set 'webnlgg'; did you mean 'webnlg'"):
        corpora.find("webnlgg")
    with pytest.raises(DataError, match="is one file; expected the folder of e2e"):
        corpora.find("e2e").read(str(write(tmp_path / "trainset.csv", "mr,ref\n")))


@pytest.mark.parametrize("name", corpora.names())
def test_every_corpus_names_a_task_and_metrics_that_there_are(name: str) -> None:
    corpus = corpora.find(name)
    assert corpus.name == name
    assert corpus.task in tasks.names()
    for metric in corpus.metrics:
        assert metrics.find(metric)


# --- scores ------------------------------------------------------------------------------------------------------


def prepared(corpus: corpora.Corpus, rows: list[dict[str, Any]]) -> Any:
    given = Table("data", rows, list(range(1, len(rows) + 1)))
    return tasks.find(corpus.task).learn(given, **corpus.options).prepared(given)


def test_texts_are_scored_one_a_source_against_all_its_references() -> None:
    corpus = corpora.find("xsum")
    table = prepared(corpus, [{"source": s, "target": t} for s, t in (("x", "a b"), ("y", "c d"), ("x", "e f"))])
    assert corpus.score(["e f", "c d"], table) == ({"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}, {})


def test_scitldr_takes_all_three_rouges_from_the_reference_of_the_best_rouge_1() -> None:
    """As its cal-rouge.py does; the maxima of each would be higher."""
    corpus = corpora.find("scitldr")
    texts = (
        "a b c d",
        "b a e",
    )  # ROUGE-1 with the answer `a b e`: 4/7 and 6/6, ROUGE-2: 2/5 and 0, ROUGE-L: 4/7 and 4/6
    table = prepared(corpus, [{"source": "x", "target": text} for text in texts])
    scores, _ = corpus.score(["a b e"], table)
    assert scores["rouge1"] == 1.0 and scores["rouge2_scitldr"] == 0.0
    assert scores["rougeL_scitldr"] == pytest.approx(2 / 3)
    assert metrics.score("rouge2", ["a b e"], [list(texts)]) == pytest.approx(2 / 5)


def test_what_is_left_out_is_told_beside_the_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java
    corpus = corpora.find("webnlg")
    scores, left_out = corpus.score(["a b c d"], prepared(corpus, [{"source": "x", "target": "a b c d"}]))
    assert scores == {"bleu_webnlg": pytest.approx(100), "ter_webnlg": 0.0}
    assert list(left_out) == ["meteor_webnlg"]


def test_tags_of_words_that_were_cut_off_are_no_entities() -> None:
    corpus = corpora.find("wnut")
    table = prepared(corpus, [{"tokens": ["a", "b", "c"], "tags": ["B-X", "O", "B-X"]}])
    scores, _ = corpus.score([["B-X"]], table)
    assert scores == {"entity_f1": pytest.approx(2 / 3), "entity_precision": 1.0, "entity_recall": 0.5}


def test_multirc_is_scored_by_question_and_copa_by_the_number_of_the_choice() -> None:
    corpus = corpora.find("multirc")
    scores, _ = corpus.score(["1", "1"], prepared(corpus, EXPECTED["multirc"]))
    assert scores == {"f1a:1": pytest.approx(2 / 3), "exact_match": 0.0}
    corpus = corpora.find("copa")
    assert corpus.score([1], prepared(corpus, EXPECTED["copa"])) == ({"accuracy": 1.0}, {})


# --- the real files ----------------------------------------------------------------------------------------------

COUNTS = {  # of the data sets' own papers
    "e2e": ("e2e", 42_061, 4_672, {"test": 4_693}),
    "webnlg": ("webnlg2017", 18_025, 2_258, {"seen": 2_495, "unseen": 2_433, "all": 4_928}),
    "boolq": ("FewGLUE_32dev", 32, 32, {"val": 3_270}),
    "cb": ("FewGLUE_32dev", 32, 32, {"val": 56}),
    "copa": ("FewGLUE_32dev", 32, 32, {"val": 100}),
    "rte": ("rte_glue", 2_490, 277, {"dev": 277}),
    "wic": ("FewGLUE_32dev", 32, 32, {"val": 638}),
    "wsc": ("FewGLUE_32dev", 32, 32, {"val": 104}),
    "multirc": ("FewGLUE_32dev", 154, 167, {"val": 4_848}),
    "conll2003": ("conllpp", 14_041, 3_250, {"test": 3_453}),
    "conllpp": ("conllpp", 14_041, 3_250, {"test": 3_453}),
    "conll04": ("conll04", 922, 231, {"test": 288}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files_have_as_many_rows_as_they_should_and_fit_their_task(shared: Path, name: str) -> None:
    folder, train, dev, tests = COUNTS[name]
    corpus = corpora.find(name)
    found = corpus.read(str(shared / "data" / folder))
    assert (len(found.train), len(found.dev)) == (train, dev)
    assert {part: len(table) for part, table in found.tests.items()} == tests
    task = tasks.find(corpus.task).learn(found.train, **corpus.options)
    for table in (found.train, found.dev, *found.tests.values()):
        assert len(task.prepared(table)) == len(table)


def test_webnlgs_train_texts_are_18102_with_those_that_are_to_be_fixed(shared: Path) -> None:
    texts = "".join(path.read_text() for path in (shared / "data" / "webnlg2017" / "train").rglob("*.xml"))
    assert texts.count("<lex ") == 18_102
    assert texts.count("<lex ") - texts.count('comment="toFix"') == 18_025


def test_the_real_sources_group_as_the_papers_count_them(shared: Path) -> None:
    found = corpora.find("e2e").read(str(shared / "data" / "e2e"))
    assert len(grouped(found.tests["test"])) == 630
    web = corpora.find("webnlg").read(str(shared / "data" / "webnlg2017"))
    assert [len(grouped(web.tests[part])) for part in ("seen", "unseen", "all")] == [971, 891, 1_862]
    tldr = corpora.find("scitldr").read(str(shared / "data" / "scitldr"))
    # 1,992 / 619 / 618 papers, one abstract twice in training and one in development
    assert [len(grouped(table)) for table in (tldr.train, tldr.dev, tldr.tests["test"])] == [1_991, 618, 618]


@pytest.mark.parametrize(
    ("file", "theirs"), [("devset.csv", "src1_valid.txt"), ("testset_w_refs.csv", "src1_test.txt")]
)
def test_e2e_sources_are_those_of_li_and_liangs_files(shared: Path, file: str, theirs: str) -> None:
    folder = shared / "data" / "e2e"
    with open(folder / file, encoding="utf-8-sig", newline="") as opened:
        ours = [e2e.linearised(row["mr"]) for row in csv.DictReader(opened)]
    wanted = [line.partition("||")[0].strip() for line in (folder / theirs).read_text(encoding="utf-8").splitlines()]
    assert ours == wanted


def test_real_spans_of_wic_and_wsc_mark_their_words(shared: Path) -> None:
    few = shared / "data" / "FewGLUE_32dev"

    def given(folder: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (few / folder / "val.jsonl").read_text().splitlines()]

    def marked(name: str) -> list[list[str]]:
        table = corpora.find(name).read(str(few)).tests["val"]
        return [[row["text"][start:end].lower() for start, end in row["spans"]] for row in table.rows]

    assert marked("wsc") == [[row["target"][f"span{i}_text"].lower() for i in (1, 2)] for row in given("WSC")]
    for (word,), row in zip(marked("wic"), given("WiC"), strict=True):
        assert word[0] == row["word"][0] or word in ("were", "was", "is", "am", "are")
