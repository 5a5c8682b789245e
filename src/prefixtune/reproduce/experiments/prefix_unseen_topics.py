"""Trained on some topics, tested on others."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return recipes.fine_tuning(cell), recipes.prefix(cell)


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, table 3 and table 1 (WebNLG, unseen)",
    shows="On topics that training did not have, a prefix beats fine-tuning",
    corpora=("xsum_news_to_sports", "xsum_within_news", "webnlg"),
    arms=arms,
    recipe=recipes.generation,
    departures=recipes.generation_departures,
    figures=papers.UNSEEN_TOPICS,
)
