"""The main table of Prefix-Tuning: table to text with a prefix, against fine-tuning and adapters."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import papers, recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Trained


def arms(cell: Cell) -> Sequence[Arm]:
    adapter = {"lr": 8e-5}  # the paper's 5e-5 or 8e-5
    return (
        recipes.fine_tuning(cell),
        Trained(name="FT-top2", kind="ft_top", recipe={"lr": 5e-5}),
        Trained(name="Adapter 3 %", kind="adapter", options={"percent": 3.0}, recipe=adapter),
        Trained(name="Adapter 0.1 %", kind="adapter", options={"percent": 0.1}, recipe=adapter),
        Trained(name="LoRA 0.1 %", kind="lora", options={"percent": 0.1}, recipe={"lr": 2e-4}),  # LoRA's own rate
        recipes.prefix(cell),
    )


EXPERIMENT = Experiment(
    paper="Prefix-Tuning, table 1",
    shows="A prefix of 0.1 % of the parameters matches fine-tuning and beats an adapter of its size by 4.1 BLEU",
    corpora=("e2e", "webnlg", "dart"),
    arms=arms,
    recipe=recipes.generation,
    departures=recipes.generation_departures,
    figures=papers.TABLE_TO_TEXT,
    notes="LoRA is not in the paper.",
)
