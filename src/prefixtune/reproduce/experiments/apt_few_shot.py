"""APT with 16 and 32 examples."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return (
        recipes.encoder_fine_tuning(),
        recipes.free_prefix(cell, "P-Tuning v2"),
        recipes.free_prefix(cell, "APT", "adaptive"),
    )


EXPERIMENT = Experiment(
    paper="APT, table 3",
    shows="With few examples APT is ahead by more",
    corpora=recipes.SUPERGLUE,
    more=recipes.MORE_SUPERGLUE,
    arms=arms,
    recipe=recipes.few_shot,
    departures=recipes.departures,
    seeds=5,
    sizes=(16, 32),
    dev_share=1.0,
    figures=papers.APT_FEW_SHOT,
    notes="The paper does not give its steps, nor say whether its 5 seeds drew the examples anew.",
)
