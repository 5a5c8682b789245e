"""The search: what is tried for each row of a table, as many trials for one row as for any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefixtune.errors import ConfigError, near_miss
from prefixtune.reproduce.experiment import Arm, Counted, Ensemble, Experiment, Trained, Variable, stretched
from prefixtune.reproduce.options import Options


@dataclass(frozen=True)
class Candidate:
    """One setting to try: fields of the run's configuration and options of the method, over the arm's own."""

    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        """`lr 0.001, length 16`."""
        return ", ".join(f"{name} {value:g}" for name, value in {**self.recipe, **self.options}.items())


def chosen_arms(arms: Sequence[Arm], options: Options) -> list[Arm]:
    """The arms that `--methods` names, and those that they come after. Raises ConfigError with the near miss."""
    names = [arm.name for arm in arms]
    for name in (*(options.methods or ()), *(options.lr if isinstance(options.lr, Mapping) else ())):
        if name not in names:
            raise ConfigError(f"no row is called {name!r}{near_miss(name, names)}")
    wanted = set(options.methods or names)
    for arm in reversed(arms):
        if arm.name in wanted and (needed := comes_after(arm)) is not None:
            wanted.add(needed)
    for name in options.lr if isinstance(options.lr, Mapping) else ():
        if name not in wanted:
            raise ConfigError(f"--lr names {name!r}, which --methods leaves out; leave it out of both, or of neither")
    return [arm for arm in arms if arm.name in wanted]


def comes_after(arm: Arm) -> str | None:
    """The arm whose runs `arm` reads."""
    if isinstance(arm, Variable):
        return arm.after
    return arm.members if isinstance(arm, Ensemble) else None


def count_trials(experiment: Experiment, options: Options) -> int:
    """How many settings each arm tries.

    Raises ConfigError when the rates that were given for the arms are not as many, or more than `--trials`.
    """
    given = options.lr
    counts = {len(rates) for rates in given.values()} if isinstance(given, Mapping) else {len(given or (0,))}
    if len(counts) > 1:
        raise ConfigError("--lr: every row must get the same number of learning rates, or the comparison is not fair")
    lengths = len(options.lengths or (0,)) if experiment.sweeps != "length" else 1
    made = counts.pop() * lengths if counts else lengths
    trials = options.trials or made
    if (given or lengths > 1) and trials < made:
        raise ConfigError(f"--trials {trials} is fewer than the {made} that --lr and --lengths make; leave it out")
    if trials == 1 and options.trial_steps is not None:
        raise ConfigError("--trial-steps shortens trials, and nothing is tried; give --trials, or leave it out")
    return trials


def check_sizes(experiment: Experiment, options: Options) -> None:
    """Raise ConfigError where sizes or subsets are asked of an experiment that trains on all examples."""
    if experiment.sizes:
        return
    for name, given in (("--sizes", options.sizes), ("--subsets", options.subsets)):
        if given not in (None, 1):  # a smoke run asks for one subset of whatever there is
            raise ConfigError(f"{name}: this experiment trains on all examples; leave it out, or give --limit")


def check_lengths(experiment: Experiment, options: Options, arms: Sequence[Arm]) -> None:
    """Raise ConfigError where lengths are to be chosen from and no row has one."""
    if options.lengths and experiment.sweeps != "length" and all(_length(arm) is None for arm in arms):
        raise ConfigError("--lengths: no row that was asked for has a length to choose; leave it out")


def candidates(arm: Arm, experiment: Experiment, options: Options) -> list[Candidate]:
    """What is tried for `arm`, the paper's own first.

    An arm with a length tries each of `--lengths` with each rate; one without tries that many more rates, over the
    same range. An arm that trains nothing has nothing to try.
    """
    trials = count_trials(experiment, options)
    if isinstance(arm, Ensemble | Counted):
        return []
    assert isinstance(arm, Trained | Variable)
    lengths = _lengths(arm, experiment, options)
    rates = _rates(arm, options, math.ceil(trials / max(len(lengths), 1)))
    found = [Candidate({"lr": rate}, length) for rate in rates for length in lengths or [{}]]
    return found[:trials]


def _lengths(arm: Trained | Variable, experiment: Experiment, options: Options) -> list[dict[str, Any]]:
    if not isinstance(arm, Trained) or experiment.sweeps == "length" or not options.lengths or _length(arm) is None:
        return []
    return [{"length": stretched(length, arm.stretch)} for length in options.lengths]


def _length(arm: Arm) -> int | None:
    return arm.options.get("length") if isinstance(arm, Trained) else None


def _rates(arm: Trained | Variable, options: Options, count: int) -> list[float]:
    given = options.lr.get(arm.name) if isinstance(options.lr, Mapping) else options.lr
    rates = [float(rate) for rate in given] if given else [float(arm.recipe["lr"])]
    if len(rates) == count:
        return rates
    if len(rates) > 1:  # as many, evenly over the same range
        low, high = math.log(min(rates)), math.log(max(rates))
        return [float(f"{math.exp(low + (high - low) * step / (count - 1)):.3g}") for step in range(count)]
    # 1, 3, 1/3, 9, 1/9 ... times the one rate there is
    powers = [(place + 1) // 2 * (1 if place % 2 else -1) for place in range(count)]
    return [float(f"{rates[0] * 3.0**power:.3g}") for power in powers]
