"""Where learned vectors stand: in every layer or at the input alone, before the text or in the middle of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Trained

_LENGTHS = (1, 10, 20)


def arms(cell: Cell) -> Sequence[Arm]:
    lengths, rate = cell.lengths or _LENGTHS, recipes.prefix(cell).recipe
    papers_own = recipes.prefix_length(cell)
    return (
        *(
            dataclasses.replace(recipes.prefix(cell, name, length=P), x=P, series="Prefix")
            for name, P in [("Prefix", papers_own), *((f"Prefix {P}", P) for P in lengths if P != papers_own)]
        ),
        *(
            Trained(
                name=f"Embedding only {P}",
                kind="prompt_tuning",
                options={"length": P},
                recipe={"lr": 1e-2},
                x=P,
                series="Embedding only",
            )  # fmt: skip
            for P in lengths
        ),
        *(
            Trained(name=f"Infix {P}", kind="infix", options={"length": P}, recipe=rate, x=P, series="Infix")
            for P in lengths
        ),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, table 4",
    shows="Virtual tokens at the input alone are far weaker than a prefix; an infix is a little weaker",
    corpora=("e2e",),
    arms=arms,
    recipe=recipes.generation,
    figures=papers.PLACEMENT,
    axis="length",
    sweeps="length",
    notes="Embeddings are trained without the paper's MLP, hence at a higher learning rate. The infix is learned keys "
    "and values alone; the authors' code adds them to those of tokens with an embedding of their own, which read the "
    "source.",
)
