"""The papers' own figures in the tables: which columns there are, and what stands in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from prefixtune import corpora, reproduce
from prefixtune.reproduce import table
from prefixtune.reproduce.experiment import Base, Cell, Trained
from prefixtune.reproduce.options import Options
from prefixtune.reproduce.plan import Plan
from prefixtune.reproduce.runner import Findings, Row

BASE = Base("bert", False, len)
TESTS = {"webnlg": ("seen", "unseen", "all")}


def findings(name: str, names: list[str], size: int | None = None) -> Findings:
    """What an experiment would find on these corpora, had every row and test the score 0.5."""
    experiment = reproduce.find(name)
    materials: dict[str, Any] = {}
    rows = []
    for corpus in names:
        metric = corpora.find(corpus).metrics[0]
        tests = TESTS.get(corpus, ("dev",) if metric == "accuracy" else ("test",))
        materials[corpus] = MagicMock(metrics=(metric,), tests=dict.fromkeys(tests))
        run = {
            "tests": {test: {metric: 0.5} for test in tests}, "seconds": 1.0,
            "parameters": {"trained": 1, "stored": 1, "stored_percent": 0.1},
        }  # fmt: skip
        cell = Cell(corpus, size, BASE)
        rows += [Row(cell, arm, runs=[run]) for arm in experiment.arms(cell) if isinstance(arm, Trained)]
    plan = Plan(name, experiment, Options(model="m"), Path("out"), BASE)
    return Findings(plan, rows, materials, {}, ["x"])


def column(grid: table.Grid, name: str) -> dict[str, str]:
    place = grid.columns.index(name)
    return {line[0]: line[place] for line in grid.lines}


def papers(grid: table.Grid) -> list[str]:
    return [name for name in grid.columns if name.startswith("paper")]


def test_table_1_has_gpt2_medium_and_large_side_by_side() -> None:
    e2e, webnlg, dart = table.grids(findings("prefix_tuning", ["e2e", "webnlg", "dart"]))
    for grid in (e2e, webnlg, dart):
        assert papers(grid) == ["paper, GPT-2 medium", "paper, GPT-2 large"]
    assert column(dart, "paper, GPT-2 large") == {
        "FT": "47", "FT-top2": "–", "Adapter 3 %": "–", "Adapter 0.1 %": "–", "LoRA 0.1 %": "–", "Prefix": "46.7",
    }  # fmt: skip
    assert column(e2e, "paper, GPT-2 medium")["FT"] == "68.8"
    assert column(e2e, "paper, GPT-2 large")["FT"] == "68.5"
    place = webnlg.columns.index("paper, GPT-2 large")
    assert [line[place] for line in webnlg.lines if line[0] == "FT"] == ["65.3", "43.1", "55.5"]
    assert [line[place - 1] for line in webnlg.lines if line[0] == "Prefix"] == ["62.9", "45.3", "55"]


def test_means_over_corpora_stand_beside_the_papers_mean_of_the_same_corpora() -> None:
    """The printed means, 74.1 and 75.9 of SuperGLUE and 87.0 and 88.4 of entities, are those of the rows."""
    found = findings("apt", ["boolq", "copa", "rte", "wic", "wsc", "conll2003", "conll04", "ontonotes"])
    superglue, ner = (grid for grid in table.grids(found) if grid.title.startswith("mean over"))
    large = "paper, BERT-large (unverified)"
    for grid, plain, gated in ((superglue, 74.1, 75.9), (ner, 87.0, 88.4)):
        assert papers(grid) == [f"paper, {base} (unverified)" for base in ("BERT-base", "BERT-large", "RoBERTa-large")]
        assert float(column(grid, large)["P-Tuning v2"]) == pytest.approx(plain, abs=0.05)
        assert float(column(grid, large)["APT"]) == pytest.approx(gated, abs=0.05)
        assert column(grid, large)["LoRA"] == "–"
    (some,) = (grid for grid in table.grids(findings("apt", ["boolq", "copa"])) if grid.title.startswith("mean"))
    assert column(some, large)["APT"] == "77.5"  # (76.0 + 79.0) / 2


def test_a_mean_with_a_corpus_that_the_paper_lacks_has_no_figure_of_it() -> None:
    (mean,) = (grid for grid in table.grids(findings("apt", ["boolq", "cb"])) if grid.title.startswith("mean"))
    assert papers(mean) == []


def test_the_few_shot_means_of_the_paper_stand_in_the_table_of_16_examples_alone() -> None:
    every = ["boolq", "copa", "rte", "wic", "wsc"]
    *single, mean = table.grids(findings("apt_few_shot", every, 16))
    assert column(mean, "paper, BERT-large (unverified)") == {"FT": "49.4", "P-Tuning v2": "50.8", "APT": "55"}
    assert not any(papers(grid) for grid in single), "the paper's figures by task are not known"
    assert papers(table.grids(findings("apt_few_shot", every, 32))[-1]) == []
    assert papers(table.grids(findings("apt_few_shot", every[:4], 16))[-1]) == [], "its mean is over all five"
