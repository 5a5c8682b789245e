"""APT without one of its parts."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return (
        recipes.free_prefix(cell, "APT", "adaptive"),
        recipes.free_prefix(cell, "no token gate", "adaptive", token_gate=False),
        recipes.free_prefix(cell, "no layer gate", "adaptive", layer_gate=False),
        recipes.free_prefix(cell, "no h", "adaptive", gate_input="none"),
        recipes.free_prefix(cell, "no gate (P-Tuning v2)"),
    )


EXPERIMENT = Experiment(
    paper="APT, table 4",
    shows="Both gates help, and so does what the token gate reads",
    corpora=(*recipes.SUPERGLUE, *recipes.NER),
    more=(*recipes.MORE_SUPERGLUE, *recipes.MORE_NER),
    arms=arms,
    recipe=recipes.understanding,
    departures=recipes.departures,
    seeds=5,
)
