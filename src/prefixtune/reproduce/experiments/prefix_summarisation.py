"""Summaries by an encoder-decoder with prefixes at all three sites."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return (
        recipes.fine_tuning(cell),
        recipes.prefix(cell, "Prefix 2 %"),
        recipes.prefix(cell, "Prefix 0.1 %", length=5),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, table 2",
    shows="On summaries a prefix of 2 % of the parameters comes near fine-tuning",
    corpora=("xsum", "scitldr"),
    arms=arms,
    departures=recipes.summary_departures,
    recipe=recipes.generation,
    figures=papers.SUMMARISATION,
    notes="SciTLDR is not in the paper; it gets XSum's recipe.",
)
