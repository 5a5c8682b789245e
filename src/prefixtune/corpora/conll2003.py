"""CoNLL-2003 (Tjong Kim Sang & De Meulder 2003): persons, places, organisations and others in Reuters' news."""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.columns import Columns, named

_FILES = (
    ("eng.train", "eng.testa", "eng.testb"),
    ("train.txt", "valid.txt", "test.txt"),
    ("train.txt", "dev.txt", "test.txt"),
    ("train.txt", "testa.txt", "testb.txt"),
    ("train.conll", "dev.conll", "test.conll"),
    ("conllpp_train.txt", "conllpp_dev.txt", "conllpp_test.txt"),
)


class Conll2003(Columns):
    """14,041 / 3,250 / 3,453 sentences; 14,987 / 3,466 / 3,684 where a document's mark counts as one.

    The files of CoNLL++ are taken as well: the same sentences, with the test set's tags corrected.
    """

    files: ClassVar[tuple[tuple[str, str, str], ...]] = _FILES
    layout: ClassVar[str] = named(_FILES)
    hub: ClassVar[str] = "tomaarsen/conll2003"
