"""The gate as a probe: a prefix whose lengths follow APT's gates, against the fixed and the enlarged one."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Variable


def arms(cell: Cell) -> Sequence[Arm]:
    fixed = recipes.free_prefix(cell, "fixed")
    options = {"dropout": fixed.options["dropout"]}
    return (
        fixed,
        recipes.free_prefix(cell, "enlarged 1.5x", stretch=1.5),
        recipes.free_prefix(cell, "APT", "adaptive"),
        Variable(name="variable", after="APT", options=options, recipe=fixed.recipe),
        Variable(name="variable 0.8x", after="APT", ratio=0.8, options=options, recipe=fixed.recipe),
    )


EXPERIMENT = Experiment(
    paper="APT, section 4.4",
    shows="P-Tuning v2 with lengths from the learned gates beats the fixed prefix with fewer parameters",
    corpora=(*recipes.SUPERGLUE, *recipes.NER),
    more=(*recipes.MORE_SUPERGLUE, *recipes.MORE_NER),
    arms=arms,
    recipe=recipes.understanding,
    departures=recipes.departures,
    notes="The paper does not give its rounding rule. Here positions are shared out in proportion to each layer's "
    "gate by largest remainders; gates are read over training examples.",
)
