"""WiC (Pilehvar & Camacho-Collados 2019): does a word mean the same in two sentences?"""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.corpus import whole_in
from prefixtune.corpora.superglue import SuperGlue, files, truth
from prefixtune.tasks.readers import Row


class WiC(SuperGlue):
    """5,428 / 638 pairs, the word marked in both sentences.

    P-Tuning v2's code marks no spans but writes the word before the sentences: a classification of `word: sentence`.
    """

    task: ClassVar[str] = "spans"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    layout: ClassVar[str] = files("WiC")
    folder: ClassVar[str] = "WiC"
    subset: ClassVar[str | None] = "wic"
    passages: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def rows(self, row: Row, where: str) -> list[Row]:
        spans = [[whole_in(row, f"{side}{number}", where) for side in ("start", "end")] for number in (1, 2)]
        return [
            {
                "text": row["sentence1"],
                "spans": spans[:1],
                "text_pair": row["sentence2"],
                "spans_pair": spans[1:],
                "label": truth(row, where),
            }
        ]
