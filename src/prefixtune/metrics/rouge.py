"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), 0 to 1, by rouge-score: F-measure, stems, the best reference counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.metrics.metric import TextMetric


@dataclass(frozen=True)
class Rouge1(TextMetric):
    """Common words."""

    name: ClassVar[str] = "rouge1"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return mean_rouge(self.name, answers, references)


@dataclass(frozen=True)
class Rouge2(TextMetric):
    """Common pairs of words."""

    name: ClassVar[str] = "rouge2"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return mean_rouge(self.name, answers, references)


@dataclass(frozen=True)
class RougeL(TextMetric):
    """The longest common subsequence of words."""

    name: ClassVar[str] = "rougeL"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return mean_rouge(self.name, answers, references)


@dataclass(frozen=True)
class Rouge2SciTLDR(TextMetric):
    """Common pairs of words with the reference of the best ROUGE-1, which SciTLDR's cal-rouge.py takes all by."""

    name: ClassVar[str] = "rouge2_scitldr"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return mean_rouge("rouge2", answers, closest(answers, references))


@dataclass(frozen=True)
class RougeLSciTLDR(TextMetric):
    """The longest common subsequence of words with the reference of the best ROUGE-1, as `rouge2_scitldr`."""

    name: ClassVar[str] = "rougeL_scitldr"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return mean_rouge("rougeL", answers, closest(answers, references))


def closest(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each text's references the one with the best ROUGE-1, the first of several."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)
    found = []
    for texts, answer in zip(references, answers, strict=True):
        scores = [scorer.score(text, answer)["rouge1"].fmeasure for text in texts]
        found.append([texts[scores.index(max(scores))]])
    return found


def mean_rouge(kind: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean over the texts of rouge-score's F-measure of one kind."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    found = [scorer.score_multi(texts, answer)[kind] for texts, answer in zip(references, answers, strict=True)]
    return sum(value.fmeasure for value in found) / len(found)
