"""A few examples to look at: right and wrong answers of a head, or texts before and after the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefixtune import evaluation
from prefixtune.evaluation import Loaded
from prefixtune.tasks import Decoding, Table
from prefixtune.tasks.tagging import Tagging, completed
from prefixtune.tasks.task import HeadTask
from prefixtune.tasks.text2text import grouped

_TOKENS = 96
"""The most tokens generated for one sample text: the bare base model seldom stops by itself."""


@dataclass(frozen=True)
class Judged:
    """An example with its gold and its found answer: labels, numbers of choices, or lists of tags (tagging)."""

    row: dict[str, Any]
    gold: Any
    answer: Any

    def text(self, most: int) -> str:
        """The texts of the example in one line, marked spans in brackets, choices by their numbers.

        Each has its share of `most` characters, from shortly before its first span on.
        """
        sides = (("text", "spans"), ("text_pair", "spans_pair"))
        marked = [(self.row[text], self.row.get(spans, ())) for text, spans in sides if text in self.row]
        choices = [(f"{number}: {choice}", ()) for number, choice in enumerate(self.row.get("choices", ()))]
        share = most // len(marked + choices)
        return " / ".join(_marked(text, spans, share) for text, spans in marked + choices)


def _marked(text: str, spans: Sequence[tuple[int, int]], most: int) -> str:
    """`text` with brackets around its spans; of a long one about `most` characters, the first span among them."""
    first = min((start for start, _ in spans), default=0)
    begin = min(first - most // 4, len(text) - most) if len(text) > most and first > most // 2 else 0
    kept = text[begin : begin + most]
    brackets = [(start - begin, "[") for start, _ in spans] + [(end - begin, "]") for _, end in spans]
    shown, last = kept, len(kept)
    for place, bracket in sorted(brackets, key=lambda pair: (-pair[0], pair[1])):
        if 0 <= place <= last:
            shown = shown[:place] + bracket + shown[place:]
    return ("… " if begin else "") + shown.strip() + (" …" if begin + last < len(text) else "")


@dataclass(frozen=True)
class Sides:
    """Right and wrong answers: how many of each there are, and the first of them."""

    title: str
    count: int
    shown: list[Judged]


@dataclass(frozen=True)
class Text:
    """One source, what the bare base model and the prefix make of it, and its references."""

    source: str
    before: str
    after: str
    references: list[str]


def judged(task: HeadTask, table: Table, answers: Sequence[Any], most: int) -> list[Sides]:
    """Wrong and right answers on the prepared `table`, at most `most` of each, in the order of the data."""
    found = []
    for row, answer in zip(table.rows, answers, strict=True):
        gold = row["tags"] if isinstance(task, Tagging) else row["label"]
        if isinstance(task, Tagging):
            (answer,) = completed([answer], [gold])
        found.append(Judged(row, gold, answer))
    wrong = [one for one in found if one.gold != one.answer]
    right = [one for one in found if one.gold == one.answer]
    return [Sides("wrong", len(wrong), wrong[:most]), Sides("right", len(right), right[:most])]


def texts(loaded: Loaded, name: str, table: Table, answers: Sequence[str], decoding: Decoding, most: int) -> list[Text]:
    """The first sources of the prepared `table`, before (the bare base model) and after (`answers`)."""
    pairs = list(grouped(table).items())[:most]
    short = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, _TOKENS))
    # The prefix is asked, too, so that the base model's prompt is written as the prefix's task writes it.
    rows = evaluation.generate(loaded, [source for source, _ in pairs], [None, name], short)
    return [
        Text(source, row[None], answer, references)
        for (source, references), row, answer in zip(pairs, rows, answers, strict=False)
    ]
