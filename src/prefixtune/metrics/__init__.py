"""Metrics as the papers score them: one file a family, found by file name, each metric by the name its class gives.

A name may carry an argument after a colon: `bertscore:roberta-large` (a model), `f1:entailment` (the positive class).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Any

from prefixtune.errors import ConfigError, near_miss
from prefixtune.metrics.metric import Metric

_NOT_METRICS = {"metric", "words"}

__all__ = ["Metric", "find", "measure", "missing", "names", "score"]


def names() -> list[str]:
    """The names of all metrics."""
    return sorted(_classes())


def find(name: str) -> Metric:
    """The metric called `name`, with the argument after its colon; a `ConfigError` with the near miss when unknown."""
    plain, _, argument = name.partition(":")
    if plain not in _classes():
        raise ConfigError(f"unknown metric {plain!r}{near_miss(plain, names())}")
    return _classes()[plain](argument or None)


def missing(name: str) -> str | None:
    """Why `name` cannot be computed here, and the remedy; None when it can."""
    return find(name).missing()


def score(name: str, answers: Sequence[Any], references: Sequence[Any]) -> float:
    """One number for all `answers`.

    Args:
        name: a name, with an argument after a colon where the metric takes one.
        answers: one answer a row: a text, a label or a list of tags.
        references: as many: the list of a text's references, a label, a list of tags, or (MultiRC) a pair of the
            question's id and the label.

    Raises:
        ConfigError: no such metric, or what it needs is not installed.
        DataError: counts that do not match, or a text without a reference.
    """
    metric = find(name)
    if (reason := metric.missing()) is not None:
        raise ConfigError(reason)
    metric.check(answers, references)
    return metric.score(answers, references)


def measure(
    names: Iterable[str], answers: Sequence[Any], references: Sequence[Any]
) -> tuple[dict[str, float], dict[str, str]]:
    """The scores by name, and the reasons by name of those that cannot be computed here and are left out."""
    wanted = list(names)
    left_out = {name: reason for name in wanted if (reason := missing(name)) is not None}
    return {name: score(name, answers, references) for name in wanted if name not in left_out}, left_out


@functools.cache
def _classes() -> dict[str, type[Metric]]:
    found: dict[str, type[Metric]] = {}
    for file in pkgutil.iter_modules(__path__):
        if file.name in _NOT_METRICS:
            continue
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Metric) and "name" in vars(value):
                found[value.name] = value
    return found
