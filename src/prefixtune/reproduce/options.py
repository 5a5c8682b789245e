"""The options of `prefixtune reproduce NAME`: what to run on, how much of it, and what to change in the recipe."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixtune.errors import ConfigError, near_miss
from prefixtune.training.config import RunConfig, check_kind

FIRST_SEED = 42
_QUICK = {  # one look at the development data
    "limit": 64, "max_steps": 20, "seeds": 1, "subsets": 1, "beams": 1, "max_new_tokens": 16, "eval_every": 20,
}  # fmt: skip
_RECIPE = ("epochs", "max_steps", "batch_size", "eval_every", "beams", "max_new_tokens")
"""Options that are fields of a run's configuration."""
_OWN = (  # what an experiment decides, or has no use for
    "model", "task", "train", "eval", "test", "method", "output", "seed", "lr", "name", "columns", "data_format",
    "subset", "train_split", "eval_split", "test_split",
)  # fmt: skip


@dataclass(kw_only=True)
class Options:
    """Everything that is not given stays as the paper has it."""

    model: str
    """The base model: a folder or a hub id."""

    data: Sequence[str] | Mapping[str, str] | None = None
    """Folder of the data (of one corpus, or of folders named like corpora), or CORPUS=FOLDER,CORPUS=FOLDER."""

    seeds: int | None = None
    """How many random seeds, from 42 on. Default: the experiment's."""

    corpora: Sequence[str] | None = None
    """Run these corpora of the experiment only."""

    methods: Sequence[str] | None = None
    """Run these rows of the experiment only, by their names in its table."""

    lr: Sequence[float] | Mapping[str, Sequence[float]] | None = None
    """Learning rates to choose from: 1e-3,1e-2 for every row, or {"FT": [1e-5, 5e-5], ...} by row."""

    lengths: Sequence[int] | None = None
    """Prefix lengths to choose from (of the rows that have a length); in a length sweep, the lengths it sweeps."""

    trials: int | None = None
    """Trials per row, compared on development data. Default: as many as --lr and --lengths make."""

    trial_steps: int | None = None
    """Optimiser steps of a trial, for a search that costs less than the runs. Default: as many as a run has."""

    sizes: Sequence[int] | None = None
    """Training-set sizes, in the few-example experiments."""

    subsets: int | None = None
    """Random subsets of each size."""

    limit: int | None = None
    """At most this many development and test inputs and (but in few-example experiments) training examples."""

    dev_limit: int | None = None
    """The most development inputs, drawn at random. Default: --limit."""

    epochs: float | None = None
    """Passes over the training data."""

    max_steps: int | None = None
    """Optimiser steps, instead of epochs."""

    batch_size: int | None = None
    """Training examples per batch."""

    eval_every: int | None = None
    """Steps between evaluations on the development data. Default: every epoch."""

    beams: int | None = None
    """Beams of the search."""

    max_new_tokens: int | None = None
    """The most tokens generated."""

    bertscore: str | None = None
    """Score generated texts by BERTScore, too, with this model: MODEL, or MODEL@LAYER."""

    recipe: dict[str, Any] | None = None
    """Any other option of `prefixtune train`, as in weight_decay=0.01,warmup=50."""

    quick: bool = False
    """A smoke run: 64 examples, 20 steps, one look at development data, one seed, greedy. Its numbers mean nothing."""

    def __post_init__(self) -> None:
        self._check_recipe()
        for name, value in _QUICK.items() if self.quick else ():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name in ("seeds", "trials", "trial_steps", "subsets", "limit", "dev_limit"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {given}: expected at least 1")
        for name in ("lengths", "sizes"):
            for item in getattr(self, name) or ():
                if type(item) is not int or item < 1:
                    raise ConfigError(f"--{name}: {item!r} is no number of at least 1")
            _refuse_twice(f"--{name}", getattr(self, name) or ())
        if isinstance(self.lr, Mapping):
            self.lr = {name: _rates(given) for name, given in self.lr.items()}
        elif self.lr is not None:
            self.lr = _rates(self.lr)

    def _check_recipe(self) -> None:
        """Raise ConfigError for what no run can have, and for what an option beside --recipe says, too."""
        known = [field.name for field in dataclasses.fields(RunConfig) if field.name not in _OWN]
        hints = typing.get_type_hints(RunConfig)
        for name, value in (self.recipe or {}).items():
            if name not in known:
                raise ConfigError(f"--recipe: unknown option {name!r}{near_miss(name, known)}")
            if name in _RECIPE and (given := getattr(self, name)) is not None:
                option = f"--{name.replace('_', '-')} {given}"
                raise ConfigError(f"{option} and --recipe {name}={value}: expected one of the two")
            _check_value(name, value, hints[name])

    def changes(self) -> dict[str, Any]:
        """Fields of the run's configuration that are not the paper's."""
        return {name: getattr(self, name) for name in _RECIPE if getattr(self, name) is not None} | (self.recipe or {})

    def record(self) -> dict[str, Any]:
        """As JSON holds it: what a resumed experiment must share with the one that was begun."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, False)}


def _check_value(name: str, value: Any, kind: Any) -> None:
    """Raise ConfigError for a value of --recipe of another kind than training takes."""
    text = str in (typing.get_args(kind) or (kind,))
    if not text or isinstance(value, str) or (value is None and kind is not str):
        check_kind(f"--recipe: {name}", value, kind)
        return
    word = "none" if value is None else value
    raise ConfigError(f"--recipe: {name} is {value!r}; expected a text, as in {name}='\"{word}\"'")


def _refuse_twice(option: str, given: Sequence[Any]) -> None:
    """Raise ConfigError for what stands there twice: the same row would be run, or the same trial counted, again."""
    if twice := [item for item in given if given.count(item) > 1]:
        raise ConfigError(f"{option}: {twice[0]!r} appears twice; expected each once")


def _rates(given: Any) -> list[float]:
    """One learning rate or several, also as the words that YAML takes 1e-3 for."""
    rates: list[float] = []
    if given in ([], ()):
        raise ConfigError("--lr: an empty list has no learning rate; expected numbers above 0, as in 1e-3,1e-2")
    for rate in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        try:
            rates.append(float(rate))
        except (TypeError, ValueError):
            rates.append(math.nan)
        if not 0 < rates[-1] < math.inf:
            raise ConfigError(f"--lr: {rate!r} is no learning rate; expected numbers above 0, as in 1e-3,1e-2")
    _refuse_twice("--lr", rates)
    return rates
