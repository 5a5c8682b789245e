"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), 0 to 1, by rouge-score: F-measure, stems, the best reference counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.metrics.metric import TextMetric


class Rouge(TextMetric):
    """The mean over the texts of rouge-score's F-measure of one kind."""

    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    @property
    def kind(self) -> str:
        """What is counted, by rouge-score's name, with which the metric's own begins."""
        return self.name.partition("_")[0]

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        found = scores_of(self.kind, answers, references)
        return sum(map(max, found)) / len(found)


@dataclass(frozen=True)
class Rouge1(Rouge):
    """Common words."""

    name: ClassVar[str] = "rouge1"


@dataclass(frozen=True)
class Rouge2(Rouge):
    """Common pairs of words."""

    name: ClassVar[str] = "rouge2"


@dataclass(frozen=True)
class RougeL(Rouge):
    """The longest common subsequence of words."""

    name: ClassVar[str] = "rougeL"


class OfTheClosest(Rouge):
    """With the reference of the best ROUGE-1 (the first of several), as SciTLDR's cal-rouge.py takes all three."""

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        found = scores_of(self.kind, answers, references)
        chosen = [one.index(max(one)) for one in scores_of("rouge1", answers, references)]
        return sum(one[place] for one, place in zip(found, chosen, strict=True)) / len(found)


@dataclass(frozen=True)
class Rouge2SciTLDR(OfTheClosest):
    """Common pairs of words."""

    name: ClassVar[str] = "rouge2_scitldr"


@dataclass(frozen=True)
class RougeLSciTLDR(OfTheClosest):
    """The longest common subsequence of words."""

    name: ClassVar[str] = "rougeL_scitldr"


def scores_of(kind: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """The F-measure of each answer with each of its references."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    return [
        [scorer.score(text, answer)[kind].fmeasure for text in texts]
        for texts, answer in zip(references, answers, strict=True)
    ]
