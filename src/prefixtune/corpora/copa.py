"""COPA (Roemmele et al. 2011): which of two is the cause, or the effect, of what happened?"""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.corpus import text_in
from prefixtune.corpora.superglue import SuperGlue, files
from prefixtune.errors import DataError
from prefixtune.tasks.cells import shown
from prefixtune.tasks.readers import Row

_JOINS = {"cause": "because", "effect": "so"}
_RIGHT = {"choice1": 0, "choice2": 1}


class Copa(SuperGlue):
    """400 / 100 questions, as P-Tuning v2's code asks them: the premise and 'because' or 'so', then a choice."""

    task: ClassVar[str] = "choice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    layout: ClassVar[str] = files("COPA")
    folder: ClassVar[str] = "COPA"
    subset: ClassVar[str | None] = "copa"

    def rows(self, row: Row, where: str) -> list[Row]:
        if str(row["question"]) not in _JOINS:
            raise DataError(f"{where}: the question is {shown(row['question'])}; expected cause or effect")
        if row["label"] is None:
            raise DataError(f"{where}: no value for the column 'label'; expected 0 or 1")
        if isinstance(row["label"], dict | list):
            raise DataError(f"{where}: the label is {shown(row['label'])}; expected 0 or 1")
        text = f"{text_in(row, 'premise', where)} {_JOINS[row['question']]}"
        label = _RIGHT.get(row["label"], row["label"])  # the hub names its classes
        return [{"text": text, "choices": [row["choice1"], row["choice2"]], "label": label}]
