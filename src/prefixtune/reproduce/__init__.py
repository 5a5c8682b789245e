"""The papers' experiments as commands: one file each in `experiments/`, found by its name."""

from __future__ import annotations

from prefixtune.finding import file_called, file_names
from prefixtune.reproduce import experiments
from prefixtune.reproduce.experiment import Experiment


def names() -> list[str]:
    """The names of all experiments."""
    return file_names(experiments.__path__)


def find(name: str) -> Experiment:
    """The experiment called `name`. Raises ConfigError with the near miss. Loads neither torch nor data."""
    return file_called(name, experiments.__name__, names(), "experiment").EXPERIMENT
