"""TER (Snover et al. 2006), edits in per cent of the reference's length, lower is better; by sacrebleu, which does what
tercom does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.metrics.metric import TextMetric, columns
from prefixtune.metrics.words import webnlg, webnlg_references


@dataclass(frozen=True)
class Ter(TextMetric):
    """sacrebleu's default: words between spaces, cases do not differ."""

    name: ClassVar[str] = "ter"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)
    paper_factor: ClassVar[float] = 0.01

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(references)
        return sacrebleu.corpus_ter(list(answers), found).score


@dataclass(frozen=True)
class TerWebNLG(TextMetric):
    """WebNLG's script of 2017 (tercom): words cut at every \\W, lower case, three references."""

    name: ClassVar[str] = "ter_webnlg"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)
    paper_factor: ClassVar[float] = 0.01

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        import sacrebleu

        found: Any = columns(webnlg_references(references))
        return sacrebleu.corpus_ter([" ".join(webnlg(answer)) for answer in answers], found).score
