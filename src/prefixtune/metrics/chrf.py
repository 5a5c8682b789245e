"""chrF and chrF++ (Popović 2015, 2017), 0 to 100, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.metrics.metric import TextMetric, columns


@dataclass(frozen=True)
class Chrf(TextMetric):
    """F2 of character n-grams, n = 1 to 6."""

    name: ClassVar[str] = "chrf"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(references)
        return sacrebleu.corpus_chrf(list(answers), found).score


@dataclass(frozen=True)
class ChrfPlusPlus(TextMetric):
    """chrF with n-grams of one and two words beside those of characters."""

    name: ClassVar[str] = "chrf++"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(references)
        return sacrebleu.corpus_chrf(list(answers), found, word_order=2).score
