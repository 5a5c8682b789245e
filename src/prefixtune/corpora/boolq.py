"""BoolQ (Clark et al. 2019): a question about a passage -> yes or no."""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.superglue import SuperGlue, files, truth
from prefixtune.tasks.readers import Row


class BoolQ(SuperGlue):
    """9,427 / 3,270 questions. The question comes first, as in P-Tuning v2's code, so that it is never cut off."""

    task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    layout: ClassVar[str] = files("BoolQ")
    folder: ClassVar[str] = "BoolQ"
    subset: ClassVar[str | None] = "boolq"
    passages: ClassVar[tuple[str, ...]] = ("text_pair",)

    def rows(self, row: Row, where: str) -> list[Row]:
        return [{"text": row["question"], "text_pair": row["passage"], "label": truth(row, where)}]
