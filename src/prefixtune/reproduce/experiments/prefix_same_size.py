"""What a given number of stored numbers buys: prefixes, a LoRA and an adapter that are equally large."""

from __future__ import annotations

from collections.abc import Sequence

from prefixtune.errors import ConfigError
from prefixtune.reproduce import recipes
from prefixtune.reproduce.experiment import Arm, Cell, Experiment, Trained

_WORDS = {
    "e2e": "The Vaults is a cheap family friendly coffee shop by the riverside . It serves Italian food .",
    "webnlg": "Alan Bean was born in Wheeler , Texas . He was a test pilot and a crew member of Apollo 12 .",
    "dart": "The Mars Hill College joined the league in 1973 . Hawaii Five-O was shown in 2010 .",
}
"""Sentences as the corpus has them."""
_FAST_KEYS = {"lr": 0.1, "part_lr": {"keys": 0.3}}
_LINEAR = {"lr": 1e-2, "part_lr": {"values": 3e-3}}


def arms(cell: Cell) -> Sequence[Arm]:
    length, *more = cell.lengths or (20,)
    if more:
        raise ConfigError(f"--lengths: this experiment compares at one length; expected one, got {len(more) + 1}")
    same = {"length": length, "like": "p_tuning_v2"}
    text = {"length": length, "init": f"text:{_WORDS[cell.corpus or '']}"}
    return (
        recipes.fine_tuning(cell),
        Trained(name="LoRA", kind="lora", options=same, recipe={"lr": 1e-2}),
        Trained(name="Adapter", kind="adapter", options=same, recipe={"lr": 1e-2}),
        recipes.prefix(cell, length=length),
        Trained(name="Free prefix", kind="p_tuning_v2", options={"length": length}, recipe={"lr": 0.1}),
        Trained(name="Free prefix from text", kind="p_tuning_v2", options=text, recipe=_FAST_KEYS),
        Trained(name="Linear prefix", kind="linear", options={"length": length}, recipe=_LINEAR),
        Trained(name="Content prefix", kind="content", options={"length": length}, recipe=_FAST_KEYS),
    )


EXPERIMENT = Experiment(
    paper="not in the papers",
    shows="Of equal stored size: prefixes, LoRA and adapter; a free prefix wants high rates and words to start from",
    corpora=("e2e", "webnlg", "dart"),
    arms=arms,
    recipe=recipes.generation,
    departures=recipes.generation_departures,
    sweeps="length",
    notes="LoRA and adapter are as large as the stored prefix. Free prefixes are P-Tuning v2's: no MLP. The one from "
    "text starts as a sentence of the corpus's kind. The content prefix has a softmax of its own, the linear one none; "
    "both undo rotary embeddings. Keys from text and of the content prefix have three times the rate of their values, "
    "linear values three tenths of that of their keys.",
)
