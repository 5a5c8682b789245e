"""MultiRC's two figures (Khashabi et al. 2018; SuperGLUE), 0 to 1: over all answers, and over whole questions.

A row is one answer to one question; its reference is the pair of the question's id and the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.metrics.labels import F1
from prefixtune.metrics.metric import Metric

Marked = tuple[Any, str]


@dataclass(frozen=True)
class F1a(Metric):
    """F1 of the right answers, over all answers of all questions; the label after the colon is `right`."""

    name: ClassVar[str] = "f1a"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Marked]) -> float:
        labels = [label for _, label in references]
        if self.argument is not None and self.argument not in {*answers, *labels}:
            return 0.0  # no answer is right and none was called right
        return F1(self.argument).score(answers, labels)


@dataclass(frozen=True)
class ExactMatch(Metric):
    """The share of questions all of whose answers are labelled right."""

    name: ClassVar[str] = "exact_match"
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Marked]) -> float:
        whole: dict[Any, bool] = {}
        for answer, (question, label) in zip(answers, references, strict=True):
            whole[question] = whole.get(question, True) and answer == label
        return sum(whole.values()) / len(whole)
