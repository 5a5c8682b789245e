"""NIST (Doddington 2002) as E2E's script has it: mteval-v13a, changed for texts with different numbers of references.

nltk's `corpus_nist` is no substitute: it keeps the best single reference of a text, mteval pools the references. Nor is
the Python port that E2E's script can be asked for: it counts n-grams of texts shorter than n below zero, and expects
the mean length of each text's references, where the script has all their words over the mean number of references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.metrics.metric import TextMetric

_ORDER = 5
_BETA = -math.log(0.5) / math.log(1.5) ** 2  # a text two thirds as long as its references loses half

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Nist(TextMetric):
    """Matching n-grams (n = 1 to 5), each by its information in the references; 13a tokens, cases do not differ."""

    name: ClassVar[str] = "nist"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        found = [_words(answer) for answer in answers]
        wanted = [[_words(text) for text in texts] for texts in references]
        every = [words for texts in wanted for words in texts]
        counts = Counter(gram for words in every for n in range(_ORDER + 1) for gram in _grams(words, n))
        total = 0.0
        for n in range(1, _ORDER + 1):
            number = sum(max(len(words) - n + 1, 0) for words in found)
            gain = sum(
                hits * math.log2(counts[gram[:-1]] / counts[gram])
                for words, texts in zip(found, wanted, strict=True)
                for gram, hits in _hits(words, texts, n).items()
            )
            total += gain / max(number, 1)
        length, expected = sum(map(len, found)), sum(map(len, every)) * len(wanted) / max(len(every), 1)
        return total * _brevity(length / expected if expected else 0.0)


def _words(text: str) -> list[str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()(text.lower()).split()


def _grams(words: Sequence[str], n: int) -> list[Gram]:
    """All n-grams; for n = 0 one empty one a word, so that a single word's information is that of its frequency."""
    if n == 0:
        return [()] * len(words)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _hits(words: Sequence[str], texts: Sequence[Sequence[str]], n: int) -> Counter[Gram]:
    """How often each n-gram counts: at most as often as the reference that has it most."""
    most: Counter[Gram] = Counter()
    for text in texts:
        most |= Counter(_grams(text, n))
    return Counter(_grams(words, n)) & most


def _brevity(ratio: float) -> float:
    if ratio >= 1:
        return 1.0
    return math.exp(-_BETA * math.log(ratio) ** 2) if ratio > 0 else 0.0
