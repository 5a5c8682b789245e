"""Answers of an experiment are kept, and scored again without a run."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from prefixtune import metrics, reproduce
from prefixtune.cli import main
from prefixtune.errors import ConfigError
from prefixtune.reproduce import derive, runner, table
from prefixtune.reproduce.experiment import Ensemble, Experiment, Trained
from prefixtune.reproduce.material import Material

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

ARMS = {
    "conll04": (Trained(name="FT", kind="full", recipe={"lr": 1e-3}),),
    "e2e": (
        Trained(name="P", kind="p_tuning_v2", options={"length": 3}, recipe={"lr": 1e-1}),
        Ensemble(name="Both", members="P"),
    ),
}
BASES = {"conll04": "bert", "e2e": "gpt2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.place(tmp_path_factory.mktemp("place"))


def experiment(corpus: str) -> Experiment:
    return Experiment(
        paper="none", shows="nothing", corpora=(corpus,), arms=lambda cell: ARMS[corpus], seeds=2,
        recipe=lambda cell: {"max_steps": 2, "batch_size": 8},
    )  # fmt: skip


def command(place: Path, corpus: str, output: Path) -> list[str]:
    given = ["--model", str(place / BASES[corpus]), "--data", f"{corpus}={place / corpus}", "--max-new-tokens", "6"]
    return ["reproduce", corpus, *given, "--output", str(output)]


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """An experiment over each corpus, in folders of their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "find", experiment)
        for corpus in ARMS:
            assert main(command(place, corpus, place / "finished" / corpus)) == 0
    return place / "finished"


@pytest.fixture
def argv(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> list[str]:
    """The command of a finished experiment in `out`, over CoNLL-2004 unless the test says otherwise."""
    corpus = getattr(request, "param", "conll04")
    shutil.copytree(finished / corpus, tmp_path / "out")
    monkeypatch.setattr(reproduce, "find", experiment)
    monkeypatch.setattr(runner, "fit", _nothing_runs)
    monkeypatch.setattr(derive, "generate", _nothing_runs)
    return command(place, corpus, tmp_path / "out")


def _nothing_runs(*_: Any, **__: Any) -> Any:
    raise AssertionError("a finished run ran again")


def scores(output: Path) -> list[Any]:
    return [row["scores"] for row in json.loads((output / table.JSON).read_text())["rows"]]


def answers(output: Path) -> list[Path]:
    return sorted(output.rglob("answers/test.jsonl"))


def read(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, given: Iterable[Any]) -> None:
    file.write_text("".join(json.dumps(answer) + "\n" for answer in given))


@pytest.mark.parametrize("argv", ["conll04", "e2e"], indirect=True)
def test_the_same_answers_have_the_same_scores(argv: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    before = scores(output)
    for file in output.rglob("metrics.json"):  # so that what is read back is not what was there
        found = json.loads(file.read_text())
        file.write_text(json.dumps({**found, "tests": {"test": {}}}))
    assert main([*argv, "--rescore"]) == 0
    assert scores(output) == before


@pytest.mark.parametrize("argv", ["e2e"], indirect=True)
def test_a_kept_answer_that_is_a_reference_is_scored_as_one(argv: list[str], place: Path, tmp_path: Path) -> None:
    """Every run's and the ensemble's; BLEU of a reference against itself is 100."""
    with open(place / "e2e" / "testset_w_refs.csv", newline="") as file:
        first: dict[str, str] = {}
        for row in csv.DictReader(file):
            first.setdefault(row["mr"], row["ref"])
    output = tmp_path / "out"
    assert len(answers(output)) == 2 + 1
    for file in answers(output):
        assert len(read(file)) == len(first)
        write(file, first.values())
    expected = metrics.score("bleu_e2e", list(first.values()), [[text] for text in first.values()])
    assert main([*argv, "--rescore"]) == 0
    for row in scores(output):
        assert row["test"]["bleu_e2e"]["mean"] == pytest.approx(expected)
        assert row["test"]["rouge_l_e2e"]["mean"] == pytest.approx(100)


def test_trials_and_resumed_runs_keep_their_scores(argv: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    before = scores(output)
    for file in answers(output):
        write(file, (["O"] * len(tags) for tags in read(file)))
    assert main([*argv, "--resume"]) == 0
    assert scores(output) == before
    assert main([*argv, "--rescore"]) == 0
    assert scores(output)[0]["test"]["entity_f1"]["mean"] == 0


def test_one_run_without_its_answers_leaves_all_scores_as_they_were(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else `--resume` would take some runs with new scores and some with old ones for one row."""
    output = tmp_path / "out"
    first, last = answers(output)
    write(first, (["O"] * len(tags) for tags in read(first)))
    before = {file: file.read_bytes() for file in output.rglob("*.json")}
    whole = read(last)
    write(last, whole[1:])
    assert main([*argv, "--rescore"]) == 2
    assert "11 answers; expected 12" in capsys.readouterr().err
    last.unlink()
    assert main([*argv, "--rescore"]) == 2
    told = capsys.readouterr().err
    assert "seed-43/answers/test.jsonl cannot be scored again" in told and "leave --rescore out" in told
    assert {file: file.read_bytes() for file in output.rglob("*.json")} == before
    assert main([*argv, "--resume"]) == 0


def test_a_score_that_cannot_be_had_here_stays_and_one_of_some_runs_is_told(argv: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    kept = next(output.rglob("seed-42/metrics.json"))
    found = json.loads(kept.read_text())
    found["tests"]["test"] |= {"entity_f1": 0.0, "elsewhere": 0.5}
    del found["tests"]["test"]["entity_recall"]
    kept.write_text(json.dumps(found))
    assert main([*argv, "--resume"]) == 0
    assert "(1 of 2 runs)" in (output / table.MARKDOWN).read_text()
    assert main([*argv, "--rescore"]) == 0
    assert "of 2 runs)" not in (output / table.MARKDOWN).read_text()
    assert json.loads(kept.read_text())["tests"]["test"]["elsewhere"] == 0.5


def test_the_page_shows_the_command_that_makes_it_anew(argv: list[str], tmp_path: Path) -> None:
    assert main([*argv, "--rescore"]) == 0
    for file in (table.MARKDOWN, "experiment.json"):
        text = (tmp_path / "out" / file).read_text()
        assert "--max-new-tokens" in text and "--rescore" not in text


def test_answers_are_kept_where_scoring_fails(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ConfigError("no Java")

    monkeypatch.setattr(reproduce, "find", experiment)
    monkeypatch.setattr(Material, "score", fail)
    assert main(command(place, "conll04", tmp_path / "new")) == 2
    assert [path.parent.parent.name for path in answers(tmp_path / "new")] == ["seed-42"]


def test_there_is_nothing_to_score_in_a_new_folder(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*argv[:-1], str(tmp_path / "new"), "--rescore"]) == 2
    assert "holds no experiment to score again" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_what_reaches_scores_alone_may_differ(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "out" / "experiment.json"
    record = json.loads(asked.read_text())
    asked.write_text(json.dumps({**record, "asked": {**record["asked"], "bertscore": "another"}}))
    assert main([*argv, "--resume"]) == 2
    assert "--resume: bertscore is None but the experiment" in capsys.readouterr().err
    assert main([*argv, "--rescore"]) == 0
    assert "bertscore" not in json.loads(asked.read_text())["asked"]
    assert main([*argv, "--rescore", "--limit", "3"]) == 2


def test_a_page_over_runs_of_other_code_says_so(argv: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    page = output / table.MARKDOWN
    assert "other versions" not in page.read_text()
    first, *others = sorted(output.rglob("run.json"))
    record = json.loads(first.read_text())
    here = record["versions"].pop("prefixtune source")
    first.write_text(json.dumps({**record, "versions": {**record["versions"], "torch": "1.0"}}))
    assert main([*argv, "--resume"]) == 0
    told = f"prefixtune source untold (here {here}); torch 1.0 (here {torch.__version__})"
    assert f"1 of {1 + len(others)} runs, trials counted, were begun with other versions" in page.read_text()
    assert told in page.read_text()
