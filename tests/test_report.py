"""The report of any prefix, which `prefixtune evaluate --report` writes beside its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_cli
import tiny
import torch
from test_probe import prefix_of, read_page

import prefixtune as pt
from prefixtune import methods
from prefixtune.cli import main
from prefixtune.evaluation import load
from prefixtune.training import curves


def evaluated(folder: Path, *more: str) -> list[str]:
    argv = ["evaluate", "--prefix", str(folder / "prefix"), "--data", str(folder / "data.jsonl")]
    return [*argv, "--report", str(folder / "page.html"), *more]


@pytest.mark.parametrize("method", sorted(set(methods.names()) - {"adaptive", "cartridge"}))
def test_a_prefix_without_gates_has_a_report_of_its_scores_samples_and_configuration(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = prefix_of(tmp_path, "llama", "text2text", methods.find(method)(length=2), count=4)
    answers = tmp_path / "answers.jsonl"
    assert main(evaluated(tmp_path, "--predictions", str(answers))) == 0
    scores, words = json.loads(capsys.readouterr().out), read_page(tmp_path / "page.html")
    for value in scores.values():
        assert f"{value:.4f}" in words or f"{value:g}" in words
    assert f"A prefix ({method}) for text2text" in words and "before: base model" in words and "max_new_tokens" in words
    sources = list(dict.fromkeys(row["source"] for row in table.rows))
    for line, source in zip(answers.read_text().splitlines(), sources, strict=True):
        assert " ".join(str(json.loads(line)).split()) in words and source in words
    assert "heat map" not in (tmp_path / "page.html").read_text()


def test_a_report_shows_gates_that_are_those_of_the_library(tmp_path: Path) -> None:
    folder, table = prefix_of(tmp_path, "bert", "classification", count=4)
    assert main(evaluated(tmp_path)) == 0
    loaded = load(None, {"default": str(folder)})
    found = []
    for row in table.rows:
        ids = loaded.tokenizer(row["text"], return_tensors="pt")
        with torch.no_grad():
            found.append(pt.gates(loaded.model, **ids)["encoder"][0])
    words = read_page(tmp_path / "page.html")
    for gate in torch.stack(found).mean(0).nanmean(1).tolist():
        assert f"{gate:.4f}" in words
    assert (tmp_path / "page.html").read_text().count("heat map of the gates") == 1


def test_a_run_has_its_curves_and_its_settings_in_the_report(tmp_path: Path) -> None:
    tiny.encoder(tmp_path / "bert")
    tiny.jsonl(tmp_path / "classes.jsonl", tiny.first_letter(12, 1))
    data = str(tmp_path / "classes.jsonl")
    argv = ["--method", "p_tuning_v2", "--eval", data, "--no-base-dropout", "--epochs", "1"]
    assert main(test_cli.flags(tmp_path, tmp_path / "prefix", *argv)) == 0
    argv = ["evaluate", "--prefix", str(tmp_path / "prefix"), "--data", data, "--report", str(tmp_path / "page.html")]
    assert main(argv) == 0
    words = read_page(tmp_path / "page.html")
    assert "development (in training)" in words and "base_dropout" in words and "wrong" in words
    assert (tmp_path / "page.html").read_text().count("loss and metric over steps") == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--report", "data.jsonl"], "is the file of --data"),
        (["--output", "page.html"], "is the file of --output"),
    ],
)
def test_a_report_never_takes_the_place_of_another_file(
    tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix_of(tmp_path, "bert", "classification", pt.PTuningV2(length=2), count=4)
    before = (tmp_path / "data.jsonl").read_bytes()
    argv = evaluated(tmp_path)
    if more[0] == "--report":
        argv = argv[:-2]
    assert told in test_cli.refused([*argv, more[0], str(tmp_path / more[1])], capsys)
    assert (tmp_path / "data.jsonl").read_bytes() == before and not (tmp_path / "page.html").exists()


def test_a_broken_record_of_the_run_shows_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = prefix_of(tmp_path, "bert", "classification", pt.PTuningV2(length=2), count=4)
    (folder / "log_history.jsonl").write_text('{"loss": \n')

    def loads(*args: Any, **options: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("prefixtune.evaluation.load", loads)
    assert "holds a run that cannot be read" in test_cli.refused(evaluated(tmp_path), capsys)


def test_losses_of_a_sentence_and_of_a_token_never_share_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    history = [{"step": 1, "loss": 300.0}, {"step": 2, "loss": 100.0}, {"step": 2, "eval_loss": 3.0, "eval_bleu": 5.0}]
    figures: list[Any] = []
    monkeypatch.setattr(curves, "png", lambda figure: figures.append(figure) or b"")
    for sentence_sum in (True, False):
        curves.history_png(history, "bleu", sentence_sum=sentence_sum)
    drawn = [{axes.get_title(loc="left"): len(axes.lines) for axes in figure.axes} for figure in figures]
    assert drawn == [{"loss of a sentence": 1, "loss of a token": 1, "bleu": 1}, {"loss": 2, "bleu": 1}]
