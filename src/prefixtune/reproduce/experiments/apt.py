"""The main tables of APT: SuperGLUE and entities, against P-Tuning v2 of the same length and of the same size."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Trained


def arms(cell: Cell) -> Sequence[Arm]:
    return (
        recipes.encoder_fine_tuning(),
        recipes.free_prefix(cell, "P-Tuning v2"),
        recipes.free_prefix(cell, "P-Tuning v2 1.5x", stretch=1.5),  # as many numbers as APT
        recipes.free_prefix(cell, "APT", "adaptive"),
        Trained(name="LoRA", kind="lora", options={"length": recipes.understanding_length(cell)}, recipe={"lr": 1e-3}),
        Trained(name="Linear probe", kind="linear_probe", recipe={"lr": 1e-2}),
    )


EXPERIMENT = Experiment(
    paper="APT, tables 1 and 2",
    shows="Token and layer gates make P-Tuning v2 better, also against a longer prefix of the same size",
    corpora=(*recipes.SUPERGLUE, *recipes.NER),
    more=(*recipes.MORE_SUPERGLUE, *recipes.MORE_NER),
    arms=arms,
    recipe=recipes.understanding,
    departures=recipes.departures,
    figures=papers.APT,
    notes="The paper chooses batches among 8, 16 and 32 and does not say which; the recipe's are P-Tuning v2's. LoRA "
    "(of APT's size) and the linear probe are not in the paper. " + recipes.AS_LARGE,
)
