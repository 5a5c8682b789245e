"""CommitmentBank (de Marneffe et al. 2019): does a text commit its author to a clause?"""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.superglue import SuperGlue, files
from prefixtune.tasks.readers import Row


class CB(SuperGlue):
    """250 / 56 pairs, three classes."""

    task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    layout: ClassVar[str] = files("CB")
    folder: ClassVar[str] = "CB"
    subset: ClassVar[str | None] = "cb"

    def rows(self, row: Row, where: str) -> list[Row]:
        return [{"text": row["premise"], "text_pair": row["hypothesis"], "label": row["label"]}]
