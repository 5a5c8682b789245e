"""What a prefix should start as when data are few: words of the task, other words, or nothing in particular."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment
from prefixtune.reproduce.experiments.prefix_low_data import task_words

_WORDS = ("summarize", "table-to-text:", "active", "elephant", "keep", "beautiful")


def arms(cell: Cell) -> Sequence[Arm]:
    length = cell.base.tokens(task_words(cell))
    words = dict.fromkeys((task_words(cell), *_WORDS))
    return (
        recipes.prefix(cell, "random", length=length),
        *(recipes.prefix(cell, f"starts as {word.strip(':')}", length=length, init=f"text:{word}") for word in words),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, figure 5",
    shows="Real words are a far better start than random numbers, and words of the task slightly better than others",
    corpora=("e2e", "scitldr"),
    arms=arms,
    departures=recipes.summary_departures,
    recipe=recipes.low_data,
    seeds=2,
    sizes=(50, 100, 200, 500),
    subsets=5,
    notes="All prefixes are as long as the task's words; a shorter text is repeated.",
)
