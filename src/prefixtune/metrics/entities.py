"""F1, precision and recall over whole entities, 0 to 1, by seqeval: what conlleval counts for IOB tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefixtune.errors import ConfigError, DataError, near_miss
from prefixtune.metrics.metric import Metric

SCHEMES = ("IOB2", "BILOU", "IOBES")
Tags = Sequence[str]
_ENTITY = re.compile(r"O|[BIESLU]-.+", re.DOTALL)
"""A tag of any scheme. seqeval takes others as well, and answers with a number of what nobody marked."""


def check_tags(tags: Tags, where: str) -> None:
    """A `DataError` unless `tags` are such as mark entities."""
    for tag in tags:
        if _ENTITY.fullmatch(str(tag)) is None:
            raise DataError(
                f"{where}: the tag {tag!r}; expected O, or a mark (B, I, E, S, L, U), a hyphen and a type: B-PER"
            )


@dataclass(frozen=True)
class EntityMetric(Metric):
    """A metric over rows of tags.

    Its argument is the scheme (`entity_f1:BILOU`); without one, tags are IOB, read as conlleval reads them.
    """

    libraries: ClassVar[tuple[str, ...]] = ("seqeval",)
    paper_factor: ClassVar[float] = 100.0

    def check(self, answers: Sequence[Any], references: Sequence[Any]) -> None:
        super().check(answers, references)
        for index, (found, wanted) in enumerate(zip(answers, references, strict=True)):
            if len(found) != len(wanted):
                raise DataError(f"{self.name}: row {index} has {len(found)} tags, its reference {len(wanted)}")
            check_tags(found, f"{self.name}: answer {index}")
            check_tags(wanted, f"{self.name}: reference {index}")

    def options(self) -> dict[str, Any]:
        """What seqeval is told of the scheme."""
        from seqeval import scheme

        if self.argument is None:
            return {"zero_division": 0}
        if self.argument not in SCHEMES:
            raise ConfigError(f"unknown scheme of tags {self.argument!r}{near_miss(self.argument, SCHEMES)}")
        return {"zero_division": 0, "mode": "strict", "scheme": getattr(scheme, self.argument)}


@dataclass(frozen=True)
class EntityF1(EntityMetric):
    """The harmonic mean of precision and recall."""

    name: ClassVar[str] = "entity_f1"

    def score(self, answers: Sequence[Tags], references: Sequence[Tags]) -> float:
        from seqeval.metrics import f1_score

        return float(f1_score([list(t) for t in references], [list(t) for t in answers], **self.options()))


@dataclass(frozen=True)
class EntityPrecision(EntityMetric):
    """The share of found entities that are right."""

    name: ClassVar[str] = "entity_precision"

    def score(self, answers: Sequence[Tags], references: Sequence[Tags]) -> float:
        from seqeval.metrics import precision_score

        return float(precision_score([list(t) for t in references], [list(t) for t in answers], **self.options()))


@dataclass(frozen=True)
class EntityRecall(EntityMetric):
    """The share of entities that are found."""

    name: ClassVar[str] = "entity_recall"

    def score(self, answers: Sequence[Tags], references: Sequence[Tags]) -> float:
        from seqeval.metrics import recall_score

        return float(recall_score([list(t) for t in references], [list(t) for t in answers], **self.options()))
