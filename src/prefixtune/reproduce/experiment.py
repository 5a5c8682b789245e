"""What an experiment is: corpora, the arms that are compared on each, and what the paper found. No torch here."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arm(ABC):
    """One row of a table.

    Args:
        name: as the table has it.
        x: its place on the experiment's axis, where there is one.
        series: which line of the plot it belongs to.
    """

    name: str
    x: float | None = None
    series: str = ""


@dataclass(frozen=True, kw_only=True)
class Trained(Arm):
    """A method or a baseline that is trained.

    Args:
        kind: its name (prefixtune.methods or prefixtune.baselines).
        options: its own options.
        recipe: fields of the run's configuration, over those of the corpus: the learning rate, and little else.
        stretch: how many times as long as the others it is; lengths given on the command line are stretched, too.
    """

    kind: str
    options: Settings = field(default_factory=dict)
    recipe: Settings = field(default_factory=dict)
    stretch: float = 1.0


def stretched(length: int, times: float) -> int:
    """So many times a length, halves up, at least 1."""
    return max(math.floor(times * length + 0.5), 1)


@dataclass(frozen=True, kw_only=True)
class Variable(Arm):
    """P-Tuning v2 with one length a layer, from the gates that the arm `after` learned with the same seed.

    Args:
        ratio: positions, as a multiple of those of `after`.
    """

    after: str
    ratio: float = 1.0
    options: Settings = field(default_factory=dict)
    recipe: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ensemble(Arm):
    """The prefixes of all seeds of the arm `members` in one batch, their logits averaged. Nothing is trained."""

    members: str


@dataclass(frozen=True, kw_only=True)
class Counted(Arm):
    """A method or a baseline that is put into the model and counted. Nothing is trained, no data are read."""

    kind: str
    options: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """What an experiment may ask about the base model.

    Args:
        kind: the architecture, as its configuration names it.
        encoder_decoder: whether it has both stacks.
        tokens: how many tokens a text has as the start of a prefix.
    """

    kind: str
    encoder_decoder: bool
    tokens: Callable[[str], int]


@dataclass(frozen=True)
class Cell:
    """Where arms are compared: a corpus (None: no data), how many training examples (None: all), on which base.

    `lengths` replaces the lengths of a sweep; None leaves them.
    """

    corpus: str | None
    size: int | None
    base: Base
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Figure:
    """One number of a paper.

    Args:
        corpus: None: the mean over all corpora of the experiment.
        test: on which of the corpus's tests; None: SuperGLUE's, whose development set has two names.
        unverified: it could not be checked against the paper's own text.
        size: training examples; None: all of them.
    """

    arm: str
    corpus: str | None
    test: str | None
    metric: str
    value: float
    base: str
    unverified: bool = False
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment.

    Args:
        paper: where the paper has it.
        shows: what it shows, in a line.
        corpora: names of corpora (prefixtune.corpora); none: an experiment without data.
        more: corpora that the paper does not have, run when they are asked for by name.
        arms: what is compared in a cell, those that others come after first.
        recipe: the corpus's part of the paper's recipe, as fields of a run's configuration.
        figures: what the paper found.
        seeds: random seeds a cell (and subset).
        sizes: training examples; none: all of them.
        subsets: how many random subsets of each size.
        dev_share: development examples, as a share of the training examples, where there are sizes.
        axis: what `Arm.x` is.
        sweeps: the option that the arms differ in; `--lengths` and the search leave it alone.
        notes: what the caption has to say of it.
        departures: what it has to say of a cell whose recipe or head is not the paper's.
    """

    paper: str
    shows: str
    corpora: tuple[str, ...]
    more: tuple[str, ...] = ()
    arms: Callable[[Cell], Sequence[Arm]]
    recipe: Callable[[Cell], Settings] = lambda cell: {}
    figures: tuple[Figure, ...] = ()
    seeds: int = 3
    sizes: tuple[int, ...] = ()
    subsets: int = 1
    dev_share: float = 0.3
    axis: str | None = None
    sweeps: str | None = None
    notes: str = ""
    departures: Callable[[Cell], Sequence[str]] = lambda cell: ()

    def runs(self, arm: Arm) -> int:
        """How many runs an arm makes in a cell, as the paper has it: without a search."""
        if isinstance(arm, Counted):
            return 1
        return self.subsets * (1 if isinstance(arm, Ensemble) else self.seeds)
