"""WSC (Levesque et al. 2012), as SuperGLUE has it: does a pronoun stand for a noun?"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Splits, numbered, text_in, whole_in
from prefixtune.corpora.superglue import SuperGlue, files, truth
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table

_LETTER = r"[^\W_]"
_NEAR = 5
"""Of words that stand apart: how far the first may be from where the row says, and twice that, what may be between."""


class Wsc(SuperGlue):
    """554 / 104 texts, the noun and the pronoun marked.

    P-Tuning v2's code marks no spans but classifies the pronoun, the text and the noun as a pair of texts.

    FewGLUE's 32 training rows are all `true` (it was made for generators), which no classifier can learn from. There,
    its 64 rows are dealt out anew, half of each label to training and to development, and a warning says so.
    """

    task: ClassVar[str] = "spans"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    layout: ClassVar[str] = files("WSC")
    folder: ClassVar[str] = "WSC"
    subset: ClassVar[str | None] = "wsc.fixed"
    columns: ClassVar[str | None] = "text, target with span1_text, span1_index, span2_text and span2_index, and label"

    def original(self, folder: Path) -> Splits | None:
        found = super().original(folder)
        if found is None or "val" not in found.tests or len({row["label"] for row in found.train.rows}) > 1:
            return found
        logging.getLogger("prefixtune").warning(
            f"{found.train.name} has one label only: its rows and those of dev32.jsonl are dealt out anew, evenly"
        )
        return Splits(*_dealt(found.train, found.dev), found.tests)

    def rows(self, row: Row, where: str) -> list[Row]:
        given = row.get("target", row)  # the hub has the spans in columns of their own
        text = text_in(row, "text", where)
        words = [(text_in(given, f"span{i}_text", where), whole_in(given, f"span{i}_index", where)) for i in (1, 2)]
        spans = [characters(text, span, word, where) for span, word in words]
        return [{"text": text, "spans": spans, "label": truth(row, where)}]


def _dealt(train: Table, dev: Table) -> tuple[Table, Table]:
    """The rows of both, half of each label here and there; rows of one text stay together."""
    by_text: dict[str, list[Row]] = {}
    for row in train.rows + dev.rows:
        by_text.setdefault(row["text"], []).append(row)
    parts: tuple[list[Row], list[Row]] = ([], [])
    for rows in sorted(by_text.values(), key=len, reverse=True):
        labels = [row["label"] for row in rows]
        min(parts, key=lambda part: sum(row["label"] in labels for row in part)).extend(rows)
    names = (f"{train.name} and dev32.jsonl ({half} half)" for half in ("first", "second"))
    first, second = (numbered(name, part) for name, part in zip(names, parts, strict=True))
    return first, second


def characters(text: str, span: str, word: int, where: str) -> list[int]:
    """Where `span`, which begins at the `word`-th of the words between spaces, stands in `text`: `[start, end]`.

    Some rows count a word too few or too many: the nearest place where the span does stand is taken. Others have it in
    another case, with other spaces or with the mark that ends a sentence. The words of some ("Kamenev and Zinoviev")
    stand apart in the text: there, all from the first to the last is marked.
    """
    words = span.split()
    places = _places(text, words) or _apart(text, words, word)
    if not places:
        raise DataError(f"{where}: the span {span!r} does not begin at any word of the text")
    start, end = min(places, key=lambda place: abs(_number(text, place[0]) - word))
    return [start, end]


def _places(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where the words stand one behind the other and are whole: marks may stand around them, letters may not."""
    whole = " ".join(words)
    core = whole.rstrip(" .,")
    if not core:
        return []
    inner = r"\s+".join(map(re.escape, core.split()))
    ending = re.escape(whole[len(core) :])
    return [found.span() for found in re.finditer(rf"(?<!{_LETTER}){inner}(?:{ending})?(?!{_LETTER})", text, re.I)]


def _apart(text: str, words: Sequence[str], word: int) -> list[tuple[int, int]]:
    """From the first of the words to the last where only these two are found, near the `word`-th and each other."""
    if len(words) < 2:
        return []
    ends = _places(text, words[-1:])
    found = []
    for start, end in _places(text, words[:1]):
        stop = next((stop for begin, stop in ends if begin >= end), None)
        near = abs(_number(text, start) - word) <= _NEAR
        if near and stop is not None and len(text[start:stop].split()) <= len(words) + 2 * _NEAR:
            found.append((start, stop))
    return found


def _number(text: str, place: int) -> int:
    """Which of the words between spaces the character at `place` belongs to, counted from 0."""
    return len((text[:place] + "x").split()) - 1
