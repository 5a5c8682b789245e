"""WNUT 2017 (Derczynski et al. 2017): new and rare entities in what people post."""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.columns import Columns, named

_FILES = (
    ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"),
    ("train.conll", "dev.conll", "test.conll"),
    ("train.txt", "dev.txt", "test.txt"),
)


class Wnut(Columns):
    """3,394 / 1,009 / 1,287 posts."""

    files: ClassVar[tuple[tuple[str, str, str], ...]] = _FILES
    layout: ClassVar[str] = named(_FILES)
    hub: ClassVar[str] = "leondz/wnut_17"
