"""What every metric gives: a name, a unit, what it needs, and one number for all answers."""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.errors import DataError


@dataclass(frozen=True)
class Metric(abc.ABC):
    """One metric.

    Args:
        argument: what stood after the colon of its name; None: nothing.
    """

    argument: str | None = None

    name: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules that `score` imports."""
    extra: ClassVar[str] = "metrics"
    """The extra of prefixtune that they come with."""
    paper_factor: ClassVar[float] = 1.0
    """What to multiply a score with to have it in the papers' unit (100 where they print a fraction in per cent)."""

    def missing(self) -> str | None:
        """Why it cannot be computed here, and the remedy; None when it can."""
        absent = [module for module in self.libraries if importlib.util.find_spec(module) is None]
        if absent:
            return f"{self.name} needs {', '.join(absent)}: pip install 'prefixtune[{self.extra}]'"
        return None

    def check(self, answers: Sequence[Any], references: Sequence[Any]) -> None:
        """A `DataError` unless there is one reference, or list of references, for each answer."""
        if len(answers) != len(references):
            raise DataError(f"{self.name}: {len(answers)} answers but {len(references)} references; expected as many")
        if not answers:
            raise DataError(f"{self.name}: no answers to score; expected at least one")

    @abc.abstractmethod
    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> float:
        """One number for all `answers`, which were checked before."""


@dataclass(frozen=True)
class TextMetric(Metric):
    """A metric of texts, each with one reference or more."""

    def check(self, answers: Sequence[Any], references: Sequence[Any]) -> None:
        super().check(answers, references)
        for index, texts in enumerate(references):
            if isinstance(texts, str) or not texts:
                got = "one text" if isinstance(texts, str) else "none"
                raise DataError(f"{self.name}: answer {index} has {got} for references; expected a list of them")


def columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The i-th reference of every text, as sacrebleu wants them; None where a text has fewer."""
    most = max(len(texts) for texts in references)
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
