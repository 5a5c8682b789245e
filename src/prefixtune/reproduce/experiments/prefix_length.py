"""How long a prefix should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment

_TABLE_TO_TEXT = (1, 5, 10, 20, 40)
_SUMMARIES = (1, 10, 20, 50, 80, 100, 200, 300)


def arms(cell: Cell) -> Sequence[Arm]:
    lengths = _SUMMARIES if cell.corpus in recipes.SUMMARIES else _TABLE_TO_TEXT
    return tuple(
        dataclasses.replace(recipes.prefix(cell, f"Prefix {length}", length=length), x=length, series="Prefix")
        for length in cell.lengths or lengths
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, figure 4",
    shows="Quality rises with the length up to about 10 (table to text) or 200 (summaries), then falls a little",
    corpora=("e2e", "webnlg", "dart", "xsum", "scitldr"),
    arms=arms,
    departures=recipes.summary_departures,
    recipe=recipes.generation,
    axis="prefix length",
    sweeps="length",
)
