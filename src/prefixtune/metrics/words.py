"""How the official scripts cut texts into words before they count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_COCO_WORD = re.compile(
    r"""
    (?:[^\W\d_]\.){2,}                                        # u.s.
  | \b(?:[^\W\d_]|st|dr|mr|mrs|ms|jr|sr|inc|ltd|co|corp|mt|gov|gen|sen|rep|prof|no|vs|col|lt|capt|rev|ave)\.(?=\s+\w)
  | -?\d+(?:[.,:/-]\d+)*(?![\w-]|['’]\w)                      # 20-25, 1,000
  | \w+(?:(?:[-&/.]|['’](?!(?:s|m|d|ll|re|ve)\b))\w+)*        # family-friendly, don't
  | \.\.\. | -- | ['’](?:s|m|d|ll|re|ve)\b | \S
    """,
    re.VERBOSE,
)
_NOT = re.compile(r"^(.+)(n['’]t)$")
_COCO_SPELLING = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "£": "#", "€": "$", '"': "''", "“": "``", "”": "''",
    "’": "'", "‘": "`", "–": "--", "—": "--",
}  # fmt: skip
_COCO_DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}


def coco(text: str) -> list[str]:
    """Words as COCO's caption evaluation counts them, which the E2E script runs: Penn Treebank, lower case, no
    punctuation.

    The script calls Stanford's Java tokenizer (CoreNLP 3.4.1). These rules need no Java and give the same words on
    9,356 of the 9,365 references of E2E's development and test sets (measured; the nine have the slip `center.,`).
    """
    words: list[str] = []
    for word in _COCO_WORD.findall(text.lower()):
        word = _COCO_SPELLING.get(word, word)
        parts = _NOT.match(word)
        words += parts.groups() if parts else [word]
    return [word for word in words if word not in _COCO_DROPPED]


def webnlg(text: str) -> list[str]:
    """Words as WebNLG's script of 2017 counts them: cut at every character that is neither letter nor digit, ASCII,
    lower case.

    The script folds to ASCII with unidecode; here marks are taken off letters, and what has none stays as it is.
    """
    folded = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return " ".join(re.split(r"(\W)", plain.lower())).split()


def webnlg_references(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Up to three references a text, each as words with spaces between: more are not read by WebNLG's script."""
    return [[" ".join(webnlg(text)) for text in texts[:3]] for texts in references]
