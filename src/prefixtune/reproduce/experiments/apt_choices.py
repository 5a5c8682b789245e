"""What APT's text leaves open: what the token gate reads, where lambda and W start, whether there is a bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment

_CHOICES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "reads the first token": {"gate_input": "first"},
    "reads the mean": {"gate_input": "mean"},
    "lambda starts at 0.5": {"layer_gate_start": 0.5},
    "lambda starts at 2": {"layer_gate_start": 2.0},
    "W starts at 0.02": {"token_gate_std": 0.02},
    "W starts at 0.2": {"token_gate_std": 0.2},
    "with a bias": {"token_gate_bias": True},
}


def arms(cell: Cell) -> Sequence[Arm]:
    return tuple(recipes.free_prefix(cell, name, "adaptive", **options) for name, options in _CHOICES.items())


EXPERIMENT = Experiment(
    paper="APT, section 3 (not settled by its text)",
    shows="Which of the open choices matters; the defaults read each token, lambda starts at 1 and W at 0, no bias",
    corpora=(*recipes.SUPERGLUE, *recipes.NER),
    more=(*recipes.MORE_SUPERGLUE, *recipes.MORE_NER),
    arms=arms,
    recipe=recipes.understanding,
    departures=recipes.departures,
)
