"""Several prefixes on one model, in one batch, as one predictor."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Ensemble, Experiment


def arms(cell: Cell) -> Sequence[Arm]:
    return recipes.prefix(cell), Ensemble(name="Ensemble of all seeds", members="Prefix")


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, discussion (section 8), which measures nothing",
    shows="Prefixes of several seeds in one batch, their logits averaged at every step, against one prefix",
    corpora=("e2e", "webnlg"),
    arms=arms,
    recipe=lambda cell: {**recipes.generation(cell), "beams": 1},
    seeds=5,
    notes="Greedy for both: the average is taken token by token.",
)
