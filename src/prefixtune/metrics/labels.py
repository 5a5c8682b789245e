"""Accuracy, F1 and the correlation of Matthews over labels, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.errors import ConfigError, near_miss
from prefixtune.metrics.metric import Metric


@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of right answers, 0 to 1."""

    name: ClassVar[str] = "accuracy"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[str]) -> float:
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(list(references), list(answers)))


@dataclass(frozen=True)
class F1(Metric):
    """F1 of one class, 0 to 1: `f1:LABEL`; without a label the one of two that comes last (`1`, `true`, `yes`)."""

    name: ClassVar[str] = "f1"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[str]) -> float:
        from sklearn.metrics import f1_score

        labels = sorted({*answers, *references})
        if self.argument is None and len(labels) > 2:
            told = ", ".join(labels)
            raise ConfigError(f"f1 is of one class, but there are {told}: name it (f1:LABEL), or use macro_f1")
        if self.argument is not None and self.argument not in labels:
            raise ConfigError(f"no row has the label {self.argument!r} of f1{near_miss(self.argument, labels)}")
        positive = self.argument or labels[-1]
        gold, found = ([label == positive for label in side] for side in (references, answers))
        return float(f1_score(gold, found, zero_division=0.0))


@dataclass(frozen=True)
class MacroF1(Metric):
    """The mean F1 of all classes that answers or references name, 0 to 1 (CB's second figure)."""

    name: ClassVar[str] = "macro_f1"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[str]) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(list(references), list(answers), average="macro", zero_division=0.0))


@dataclass(frozen=True)
class Mcc(Metric):
    """The correlation of Matthews, -1 to 1."""

    name: ClassVar[str] = "mcc"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[str]) -> float:
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(list(references), list(answers)))
