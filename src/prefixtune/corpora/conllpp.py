"""CoNLL++ (Wang et al. 2019): CoNLL-2003 with the tags of the test set corrected (5.4 % of its sentences)."""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.columns import Columns, named

_FILES = (("conllpp_train.txt", "conllpp_dev.txt", "conllpp_test.txt"),)


class Conllpp(Columns):
    """14,041 / 3,250 / 3,453 sentences."""

    files: ClassVar[tuple[tuple[str, str, str], ...]] = _FILES
    layout: ClassVar[str] = named(_FILES)
    hub: ClassVar[str] = "ZihanWangKi/conllpp"
