"""OntoNotes 5.0 (Weischedel et al. 2013): eighteen kinds of entities, in the splits of CoNLL-2012."""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.columns import Columns, named

_FILES = (
    ("train.conll", "development.conll", "test.conll"),
    ("train.txt", "dev.txt", "test.txt"),
    ("onto.train.ner", "onto.development.ner", "onto.test.ner"),
    ("train.sd.conllx", "dev.sd.conllx", "test.sd.conllx"),
)


class OntoNotes(Columns):
    """59,924 / 8,528 / 8,262 sentences in English. The corpus itself is licensed by the LDC (LDC2013T19)."""

    files: ClassVar[tuple[tuple[str, str, str], ...]] = _FILES
    layout: ClassVar[str] = named(_FILES)
    hub: ClassVar[str] = "ontonotes/conll2012_ontonotesv5"
    subset: ClassVar[str | None] = "english_v12"
