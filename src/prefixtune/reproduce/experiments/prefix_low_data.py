"""Few examples: a prefix that starts as the task's words, one that starts at random, and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment


def task_words(cell: Cell) -> str:
    """What the prefix starts as; its length is the number of their tokens."""
    return "summarize" if cell.corpus in recipes.SUMMARIES else "table-to-text:"


def arms(cell: Cell) -> Sequence[Arm]:
    words = task_words(cell)
    return (
        recipes.fine_tuning(cell),
        recipes.prefix(cell, "Prefix task words", length=cell.base.tokens(words), init=f"text:{words}"),
        recipes.prefix(cell, "Prefix random", length=cell.base.tokens(words)),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, figure 3",
    shows="With few examples a prefix beats fine-tuning, by 2.9 BLEU on average; the gap closes as data grow",
    corpora=("e2e", "xsum", "scitldr"),
    arms=arms,
    departures=recipes.summary_departures,
    recipe=recipes.low_data,
    seeds=2,
    sizes=(50, 100, 200, 500),
    subsets=5,
    notes="The paper stops fine-tuning on 50 and 100 examples after 100 steps, half of the prefix's; here it has as "
    "many as the prefix, and development data choose among them.",
)
