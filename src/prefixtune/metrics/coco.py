"""ROUGE-L and CIDEr as COCO's caption evaluation has them, which E2E's script runs.

The reference code, pycocoevalcap, carries 100 MB of Java with it; its Python part is these two formulas. They are
checked against it in the tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.metrics.metric import TextMetric
from prefixtune.metrics.words import coco

_BETA = 1.2  # ROUGE-L: recall weighs 1.44 times precision
_ORDER = 4  # CIDEr: n-grams of 1 to 4 words
_SIGMA = 6.0  # CIDEr: width of the penalty on a difference in length, in words

Gram = tuple[str, ...]
Vector = dict[Gram, float]


@dataclass(frozen=True)
class RougeLCoco(TextMetric):
    """F(1.2) of the longest common subsequence, 0 to 1: the best precision and the best recall of all references."""

    name: ClassVar[str] = "rouge_l_e2e"
    paper_factor: ClassVar[float] = 100.0

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        found = [_rouge_l(coco(a), [coco(t) for t in texts]) for a, texts in zip(answers, references, strict=True)]
        return sum(found) / len(found)


@dataclass(frozen=True)
class Cider(TextMetric):
    """CIDEr (Vedantam et al. 2015), in the variant CIDEr-D that COCO calls CIDEr: clipped, with a penalty on length.

    0 to 10. The weight of an n-gram is its frequency times the logarithm of how rare it is among the texts of this very
    set, so a set of one text scores 0.
    """

    name: ClassVar[str] = "cider"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        found = [_counts(coco(answer)) for answer in answers]
        wanted = [[_counts(coco(text)) for text in texts] for texts in references]
        known = Counter(gram for texts in wanted for gram in {gram for text in texts for gram in text})
        size = len(wanted)

        def weighed(counts: Counter[Gram]) -> Vector:
            return {gram: n * (math.log(size) - math.log(max(known[gram], 1))) for gram, n in counts.items()}

        total = 0.0
        for answer, texts in zip(found, wanted, strict=True):
            ours = weighed(answer)
            total += sum(_similarity(answer, ours, text, weighed(text)) for text in texts) / len(texts)
        return 10 * total / size


def _rouge_l(answer: list[str], texts: Sequence[list[str]]) -> float:
    common = [_longest_common(answer, text) for text in texts]
    precision = max(common) / max(len(answer), 1)
    recall = max(n / max(len(text), 1) for n, text in zip(common, texts, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        before = row[:]
        for j, other in enumerate(right):
            row[j + 1] = before[j] + 1 if word == other else max(before[j + 1], row[j])
    return row[-1]


def _counts(words: Sequence[str]) -> Counter[Gram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDER + 1) for i in range(len(words) - n + 1))


def _similarity(answer: Counter[Gram], ours: Vector, text: Counter[Gram], theirs: Vector) -> float:
    """The mean over n of the clipped cosines, times the penalty on a difference in length."""
    dot, left, right = [0.0] * _ORDER, [0.0] * _ORDER, [0.0] * _ORDER
    for gram, weight in ours.items():
        other = theirs.get(gram, 0.0)
        dot[len(gram) - 1] += min(weight, other) * other
        left[len(gram) - 1] += weight**2
    for gram, weight in theirs.items():
        right[len(gram) - 1] += weight**2
    cosines = [d / math.sqrt(a * b) if a and b else 0.0 for d, a, b in zip(dot, left, right, strict=True)]
    return sum(cosines) / _ORDER * math.exp(-((_pairs(answer) - _pairs(text)) ** 2) / (2 * _SIGMA**2))


def _pairs(counts: Counter[Gram]) -> int:
    """The length by which COCO's code compares two texts: their number of pairs of words."""
    return sum(n for gram, n in counts.items() if len(gram) == 2)
