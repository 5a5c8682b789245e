"""BLEU (Papineni et al. 2002), 0 to 100, by sacrebleu: as sacrebleu, E2E's and WebNLG's scripts cut the words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.metrics.metric import TextMetric, columns
from prefixtune.metrics.words import webnlg, webnlg_references


@dataclass(frozen=True)
class Bleu(TextMetric):
    """sacrebleu's default: 13a tokens, cases differ, exponential smoothing of empty counts."""

    name: ClassVar[str] = "bleu"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(references)
        return sacrebleu.corpus_bleu(list(answers), found).score


@dataclass(frozen=True)
class BleuE2E(TextMetric):
    """E2E's script (mteval-v13a): the same tokens, but cases do not differ.

    An order without a match counts as half a match, the next one as a quarter, and so on; one that no answer is long
    enough for is left out of the mean's numerator. sacrebleu has 0 where nothing matches at all.
    """

    name: ClassVar[str] = "bleu_e2e"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        given: Any = columns(references)
        found = sacrebleu.corpus_bleu(list(answers), given, lowercase=True)
        halved, logarithm = 1.0, 0.0
        for hits, number in zip(found.counts, found.totals, strict=True):
            halved /= 1 if hits or not number else 2
            logarithm += math.log((hits or halved) / number) if number else 0.0
        return 100 * found.bp * math.exp(logarithm / len(found.counts))


@dataclass(frozen=True)
class BleuWebNLG(TextMetric):
    """WebNLG's script of 2017 (multi-bleu.perl -lc): words cut at every \\W, lower case, three references.

    The script writes an empty line for a reference that there is not, and multi-bleu takes that for one of length 0:
    an answer of less than half the others' length is not told for being short. sacrebleu leaves it out.
    """

    name: ClassVar[str] = "bleu_webnlg"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(webnlg_references(references))
        texts = [webnlg(answer) for answer in answers]
        score = sacrebleu.corpus_bleu(
            [" ".join(words) for words in texts], found, tokenize="none", smooth_method="none", force=True
        )
        wanted = sum(
            _closest(len(words), [len(text.split()) for text in given] + [0] * (3 - len(given)))
            for words, given in zip(texts, webnlg_references(references), strict=True)
        )
        own = sum(map(len, texts))
        penalty = math.exp(min(1 - wanted / own, 0)) if own else 0.0
        return score.score / score.bp * penalty if score.bp else 0.0


def _closest(length: int, others: Sequence[int]) -> int:
    """The shorter of those that are as near."""
    return min(others, key=lambda other: (abs(other - length), other))
