"""What an experiment reads: whole corpora, subsets of them, and the task that they and the recipe make."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_corpora import SUPERGLUE
from test_reproduce import tiny_experiment

from prefixtune.errors import ConfigError, DataError, PrefixtuneError
from prefixtune.reproduce import material, runner
from prefixtune.reproduce.options import Options
from prefixtune.tasks import Table
from prefixtune.tasks.text2text import grouped


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.place(tmp_path_factory.mktemp("place"))


def test_a_subset_is_the_same_for_every_row_and_another_for_every_draw(place: Path) -> None:
    found = material.read("conll04", material.Place(str(place / "conll04"), own=True), None)
    first, again, other = (found.data(tested=True, size=10, draw=draw, dev_share=0.3) for draw in (0, 0, 1))
    assert first.train.rows == again.train.rows != other.train.rows
    assert (len(first.train), len(first.eval or ()), len(first.tests["test"])) == (10, 3, 12)
    assert first.facts == again.facts != other.facts
    assert found.task.labels == ("O", "B-Peop")  # learned from all the data, whatever the subset has


def test_a_limit_keeps_all_references_of_an_input(place: Path) -> None:
    whole = material.read("e2e", material.Place(str(place / "e2e"), own=True), None)
    cut = material.read("e2e", material.Place(str(place / "e2e"), own=True), 2)
    sources = {row["source"] for row in cut.tests["test"].rows}
    assert len(cut.train) == 2 and len(sources) == 2
    assert cut.tests["test"].rows == [row for row in whole.tests["test"].rows if row["source"] in sources]
    few = material.read("e2e", material.Place(str(place / "e2e"), own=True), None, 1)
    assert len({row["source"] for row in few.dev.rows}) == 1
    assert (few.train.rows, few.tests["test"].rows) == (whole.train.rows, whole.tests["test"].rows)


def test_bertscore_is_scored_where_a_model_is_given_for_it(place: Path) -> None:
    home = material.Place(str(place / "e2e"), own=True)
    plain, scored = (material.read("e2e", home, None, bertscore=model) for model in (None, "m@2"))
    assert scored.metrics == (*plain.metrics, "bertscore:m@2")
    tags = material.read("conll04", material.Place(str(place / "conll04"), own=True), None, bertscore="m")
    assert not any(name.startswith("bertscore") for name in tags.metrics)


def test_bertscore_reaches_the_scores_of_the_answers(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    model = f"{tiny.encoder(tmp_path)}@2"
    found = material.read("e2e", material.Place(str(place / "e2e"), own=True), None, bertscore=model)
    table = found.tests["test"]
    told = [texts[0] for texts in grouped(table).values()]
    assert found.score(told, table)[f"bertscore:{model}"] == pytest.approx(1, abs=1e-4)


def test_the_best_constant_answer_is_the_share_of_the_commonest_label(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("val", 10)):
        labels = ["entailment" if number % 5 else "not_entailment" for number in range(count)]
        rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in labels]
        tiny.jsonl(tmp_path / f"{split}.jsonl", rows)
    found = material.read("rte", material.Place(str(tmp_path), own=True), None)
    assert found.constant(found.tests["dev"]) == pytest.approx(0.8)


def test_texts_and_tags_have_no_constant_answer(place: Path) -> None:
    for name in ("e2e", "conll04"):
        found = material.read(name, material.Place(str(place / name), own=True), None)
        assert found.constant(found.tests["test"]) is None


def test_answers_to_a_question_stay_together_however_few_are_drawn(tmp_path: Path) -> None:
    for split, count in (("train", 40), ("val", 12)):
        rows = []
        for number in range(count // 2):  # two questions a passage, of one to three answers
            questions = [
                {
                    "idx": side,
                    "question": f"{split} {number} {side}?",
                    "answers": [{"text": str(one), "label": one % 2} for one in range(1 + (number + side) % 3)],
                }
                for side in range(2)
            ]
            rows.append({"idx": number, "passage": {"text": "It is so.", "questions": questions}})
        tiny.jsonl(tmp_path / f"{split}.jsonl", rows)
    home = material.Place(str(tmp_path), own=True)
    whole, cut = material.read("multirc", home, None), material.read("multirc", home, 10, 3)

    def questions(table: Table) -> dict[str, int]:
        return Counter(row["question_id"] for row in table.rows)

    every = questions(whole.train) | questions(whole.dev)
    assert (len(questions(whole.train)), len(questions(whole.dev))) == (36, 4)
    assert not questions(whole.train).keys() & questions(whole.dev).keys()
    assert [len(questions(table)) for table in (cut.train, cut.dev, cut.tests["dev"])] == [10, 3, 10]
    assert questions(cut.train).items() <= every.items() and questions(cut.dev).items() <= every.items()
    assert questions(cut.tests["dev"]).items() <= questions(whole.tests["dev"]).items()
    few = whole.data(tested=False, size=8, draw=0, dev_share=0.5)
    assert few.eval is not None and (len(questions(few.train)), len(questions(few.eval))) == (8, 4)


def test_rows_that_are_examples_are_drawn_as_random_draws_them() -> None:
    rows = [{"text": str(number)} for number in range(50)]
    places = sorted(random.Random("seed").sample(range(50), 7))
    found = material.subset(Table("t", rows, list(range(50))), 7, "seed")
    assert found.rows == [rows[place] for place in places] and found.lines == places


def test_few_examples_are_drawn_from_all_training_data_whatever_the_limit(place: Path) -> None:
    home = material.Place(str(place / "conll04"), own=True)
    found = material.read("conll04", home, 10, whole=True)
    assert (len(found.train), len(found.dev), len(found.tests["test"])) == (40, 10, 10)


def test_where_the_development_set_is_the_test_held_out_training_data_choose(tmp_path: Path) -> None:
    for split, count in (("train", 40), ("val", 7)):
        rows = [
            {"premise": f"{split} {number}", "hypothesis": "b", "label": ("entailment", "not_entailment")[number % 2]}
            for number in range(count)
        ]
        tiny.jsonl(tmp_path / f"{split}.jsonl", rows)
    found = material.read("rte", material.Place(str(tmp_path), own=True), None)
    train, dev, test = ({row["text"] for row in t.rows} for t in (found.train, found.dev, found.tests["dev"]))
    assert (len(train), len(dev), len(test)) == (36, 4, 7)
    assert all(text.startswith("train") for text in train | dev) and not train & dev
    few = found.data(tested=True, size=8, draw=0, dev_share=0.5)
    assert few.eval is not None and {row["text"] for row in few.eval.rows} == dev


@pytest.mark.parametrize("corpus", ["boolq", "cb", "multirc", "rte", "wsc"])
def test_what_is_held_out_shares_no_passage_with_training(corpus: str, tmp_path: Path) -> None:
    """A row's twins over the same text tell its answer: of WSC, at most one noun of several is the right one."""
    folder, row = SUPERGLUE[corpus]
    column = {"boolq": "passage", "cb": "premise", "rte": "premise"}.get(corpus, "text")
    labels = {"cb": ["entailment", "neutral"], "rte": ["entailment", "not_entailment"]}.get(corpus, [True, False])
    (tmp_path / folder).mkdir()
    for split in ("train", "val"):
        rows = []
        for number in range(60):
            text = f"The cat sat ; it slept. {split} {number // 3}"
            passage = {"passage": {**row["passage"], "text": text}} if corpus == "multirc" else {column: text}
            label = {} if corpus == "multirc" else {"label": labels[number % 2]}
            rows.append({**row, **passage, **label, "idx": number})
        tiny.jsonl(tmp_path / folder / f"{split}.jsonl", rows)
    found = material.read(corpus, material.Place(str(tmp_path), own=True), None)
    name = "text_pair" if corpus == "boolq" else "text"
    train, dev = ([row[name] for row in table.rows] for table in (found.train, found.dev))
    answers = 2 if corpus == "multirc" else 1
    assert (len(train), len(dev)) == (54 * answers, 6 * answers)
    assert set(train).isdisjoint(dev)


def test_what_is_held_out_shares_neither_sentence_with_training(tmp_path: Path) -> None:
    """WiC pairs the uses of a word: a sentence stands first in one pair and second in another."""
    folder, row = SUPERGLUE["wic"]
    (tmp_path / folder).mkdir()
    for split in ("train", "val"):
        uses = [[f"The cat sat {split} {word} {use} ." for use in range(3)] for word in range(20)]
        pairs = [pair for one in uses for pair in (one[:2], [one[2], one[0]], [one[1], one[0]])]
        rows = [{**row, "sentence1": a, "sentence2": b, "label": not n % 2} for n, (a, b) in enumerate(pairs)]
        tiny.jsonl(tmp_path / folder / f"{split}.jsonl", rows)
    found = material.read("wic", material.Place(str(tmp_path), own=True), None)
    train, dev = ({row[side] for row in t.rows for side in ("text", "text_pair")} for t in (found.train, found.dev))
    assert (len(found.train), len(found.dev)) == (54, 6)
    assert train.isdisjoint(dev)


def test_the_corpus_scores_answers_as_the_paper_does(place: Path) -> None:
    found = material.read("conll04", material.Place(str(place / "conll04"), own=True), None)
    rows = found.tests["test"].rows
    cut = [[*row["tags"]][:-1] for row in rows]  # the last word was cut off: no entity there
    entities = sum(tag == "B-Peop" for row in rows for tag in row["tags"])
    missed = sum(row["tags"][-1] == "B-Peop" for row in rows)
    assert missed
    scores = found.score(cut, found.tests["test"])
    assert scores["entity_recall"] == pytest.approx((entities - missed) / entities)
    assert scores["entity_precision"] == 1


def test_each_corpus_is_read_from_the_first_plain_folder_that_holds_its_files(place: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpora=("conll04", "e2e"))
    (tmp_path / "empty").mkdir()
    for folders in (("e2e", "conll04"), ("conll04", "e2e"), ("empty", "conll04", "e2e")):
        given = [str(tmp_path / name if name == "empty" else place / name) for name in folders]
        places = material.folders(experiment, Options(model="m", data=given))
        found = {name: material.read(name, home, None) for name, home in places.items()}
        for name, read in found.items():
            alone = material.read(name, material.Place(str(place / name), own=True), None)
            assert read.train.rows == alone.train.rows and read.tests["test"].rows == alone.tests["test"].rows
    alone = Options(model="m", data=[str(tmp_path / "empty"), str(place / "e2e")], corpora=["e2e"])
    ((name, home),) = material.folders(experiment, alone).items()
    assert material.read(name, home, None).train.rows == found["e2e"].train.rows


def test_a_folder_of_another_corpus_with_files_of_the_same_names_is_passed_over(tmp_path: Path) -> None:
    rows = {
        "copa": {"premise": "P.", "choice1": "a", "choice2": "b", "question": "cause", "label": 1},
        "boolq": {"question": "q", "passage": "p", "label": True},
    }
    for name, row in rows.items():
        (tmp_path / f"of {name}").mkdir()
        for split in ("train", "val"):
            tiny.jsonl(tmp_path / f"of {name}" / f"{split}.jsonl", [row, {**row, "label": 0}] * 20)
    given = [str(tmp_path / f"of {name}") for name in rows]
    places = material.folders(tiny_experiment(corpora=tuple(rows)), Options(model="m", data=given))
    assert material.read("boolq", places["boolq"], None).tests["dev"].rows[0]["text"] == "q"
    assert material.read("copa", places["copa"], None).tests["dev"].rows[0]["text"] == "P. because"
    with pytest.raises(DataError, match=r"of copa.train.jsonl, line 1: .*; .*of boolq.train.jsonl, line 1: "):
        material.read("wic", places["copa"], None)


@pytest.mark.parametrize("wanted", [["conll04"], ["conll04", "e2e"]])
def test_where_no_plain_folder_holds_a_corpus_all_of_them_are_named(tmp_path: Path, wanted: list[str]) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        Path(folder).mkdir()
    experiment = tiny_experiment(corpora=("conll04", "e2e"))
    places = material.folders(experiment, Options(model="m", data=folders, corpora=wanted))
    with pytest.raises(DataError, match="holds? no files of conll04") as caught:
        material.read("conll04", places["conll04"], None)
    assert all(folder in str(caught.value) for folder in folders)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{bert}@x", "'x' is no layer of {bert}; expected a number up to 2"),
        ("{bert}@3", "'3' is no layer of {bert}; expected a number up to 2"),
        ("nowhere", "cannot load the model 'nowhere': there is no such folder here"),
        ("{gpt2}", "--bertscore {gpt2}: bert-score cannot read texts with it (ValueError: Not supported); name an"),
    ],
)
def test_a_model_that_bertscore_cannot_use_is_told_before_anything_is_trained(
    place: Path, tmp_path: Path, given: str, told: str
) -> None:
    models = {name: str(place / name) for name in ("bert", "gpt2")}
    options = Options(model=models["gpt2"], data=[str(place)], corpora=["e2e"], bertscore=given.format(**models))
    with pytest.raises(PrefixtuneError) as caught:
        runner.run("prefix_tuning", options, tmp_path / "out", resume=False, command=["x"])
    assert told.format(**models) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_tags_are_scored_by_their_own_marks(tmp_path: Path) -> None:
    """As IOB, which they are not, an answer with another mark would be right."""
    place = tiny.place(tmp_path)
    home = material.Place(str(place / "conll04"), own=True)
    found = material.read("conll04", home, None, recipe={"tag_scheme": "as_given"})
    table = Table("test", [{"tokens": ["A", "B", "c"], "tags": ["U-Peop", "U-Peop", "O"]}], [1])
    wrong, right = [["B-Peop", "L-Peop", "O"]], [["U-Peop", "U-Peop", "O"]]
    assert found.metrics[0] == "entity_f1:BILOU"
    assert found.score(wrong, table)["entity_f1:BILOU"] == found.task.score(wrong, table)["f1"] == 0
    assert found.score(right, table)["entity_f1:BILOU"] == found.task.score(right, table)["f1"] == 1
    assert material.read("conll04", home, None).metrics[0] == "entity_f1"


def test_the_same_files_are_not_two_corpora_of_entities(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / "ner").mkdir(exist_ok=True)
        (tmp_path / "ner" / f"{name}.txt").write_text("EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n" * 4)
    bert, names = tiny.encoder(tmp_path / "bert"), ["conll2003", "ontonotes"]
    options = Options(model=bert, data=[str(tmp_path / "ner")], corpora=names, max_steps=1)
    with pytest.raises(DataError, match="train.txt would be both conll2003 and ontonotes; say which with --corpora"):
        runner.run("apt", options, tmp_path / "out", resume=False, command=["x"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("apt", {"sizes": [4]}, "--sizes: this experiment trains on all examples"),
        ("apt", {"subsets": 3}, "--subsets: this experiment trains on all examples"),
        ("prefix_size", {"lengths": [3]}, "--lengths: no row that was asked for has a length to choose"),
        ("apt", {"lengths": [2, 4, 8], "trials": 2}, "--trials 2 is fewer than the 3 that --lr and --lengths make"),
        ("apt", {"lengths": [2, 4, 8], "trials": 1}, "--trials 1 is fewer than the 3 that --lr and --lengths make"),
    ],
)
def test_what_an_experiment_would_pass_over_is_refused(
    place: Path, tmp_path: Path, name: str, given: dict[str, Any], told: str
) -> None:
    data = {} if name == "prefix_size" else {"data": [str(place)], "corpora": ["conll04"]}
    with pytest.raises(ConfigError, match=told):
        options = Options(model=str(place / "bert"), **data, **given)
        runner.run(name, options, tmp_path / "out", resume=False, command=["x"])
    assert not (tmp_path / "out").exists()
