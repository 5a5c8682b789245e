"""What APT's size buys: gates, a longer prefix without them or in a softmax of its own, or a LoRA."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Trained, stretched

_FAST = {"lr": 2e-2, "part_lr": {"keys": 0.1}}
_SLOW_HEAD = {"lr": 6e-2, "part_lr": {"head": 6e-3}}
_LINEAR = {"lr": 1e-2, "part_lr": {"values": 3e-3, "head": 6e-3}}


def arms(cell: Cell) -> Sequence[Arm]:
    length = recipes.understanding_length(cell)
    free = {"length": stretched(length, 1.5), "dropout": 0.1}
    return (
        recipes.encoder_fine_tuning(),
        Trained(name="LoRA", kind="lora", options={"length": length}, recipe={"lr": 1e-3}),
        recipes.free_prefix(cell, "APT", "adaptive"),
        Trained(name="APT fast keys", kind="adaptive", options={**free, "length": length}, recipe=_FAST),
        Trained(name="P-Tuning v2 1.5x fast keys", kind="p_tuning_v2", options=free, recipe=_FAST, stretch=1.5),
        Trained(name="Zero-init 1.5x", kind="zero_init", options=free, recipe=_SLOW_HEAD, stretch=1.5),
        Trained(name="Linear 1.5x", kind="linear", options={**free, "dropout": 0.0}, recipe=_LINEAR, stretch=1.5),
    )


EXPERIMENT = Experiment(
    paper="not in the papers",
    shows="Of APT's size: LoRA, APT, a longer free prefix in the text's softmax, in its own or in none, faster keys",
    corpora=(*recipes.SUPERGLUE, *recipes.NER),
    more=(*recipes.MORE_SUPERGLUE, *recipes.MORE_NER),
    arms=arms,
    recipe=recipes.understanding,
    departures=recipes.departures,
    notes="Fast keys have five times the rate of the rest; under zero-init the head has a tenth of it; under linear, "
    "which has no dropout, values have three tenths and the head six. " + recipes.AS_LARGE,
)
