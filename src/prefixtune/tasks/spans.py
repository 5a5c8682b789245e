"""Classification of marked spans: `text` (and `text_pair`), `spans` (and `spans_pair`) -> `label`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune.errors import DataError, ModelError
from prefixtune.tasks.cells import as_text, known_label, label_options, learned_labels
from prefixtune.tasks.readers import Table, parsed
from prefixtune.tasks.task import Feature, HeadTask, Window

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Span = tuple[int, int]
_MARKS = {"spans": "text", "spans_pair": "text_pair"}


@dataclass(frozen=True)
class Spans(HeadTask):
    """One label for the marked spans of one text or two: the same sense or not (WiC), the same thing or not (WSC).

    The head reads the state of the text's first token beside the mean state of each span, as the SuperGLUE baselines
    do (Wang et al. 2019, section 5); on a decoder the last token stands for the first.

    Columns, in JSONL (in CSV, lists as JSON):

    - `text`, and `text_pair` where there are two texts;
    - `spans`: the spans of `text`, a list of `[start, end]` in characters, the end exclusive;
    - `spans_pair`: the spans of `text_pair`, the same way;
    - `label`.

    Every row has as many spans as every other: `{"text": "A river bank.", "spans": [[8, 12]], "text_pair": "A bank.",
    "spans_pair": [[2, 6]], "label": "different"}`.

    Args:
        labels: the classes, in the order of the head's outputs.
        pairs: whether there is a second text.
        count: how many spans there are in a row, both texts together.
    """

    labels: tuple[str, ...]
    count: int
    pairs: bool = False

    kind: ClassVar[str] = "spans"
    required: ClassVar[tuple[str, ...]] = ("text", "spans", "label")
    optional: ClassVar[tuple[str, ...]] = ("text_pair", "spans_pair")
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        table.require(cls.required)
        labels = learned_labels(table, cls.kind)
        first = _row(table, 0, pairs="text_pair" in table.columns())
        count = sum(len(first.get(column, [])) for column in _MARKS)
        if not count:
            raise DataError(f"{table.where(0)}: no span is marked; expected at least one [start, end] in `spans`")
        return cls(labels=labels, count=count, pairs="text_pair" in table.columns())

    def prepared(self, table: Table) -> Table:
        table.require((*self.required, *(("text_pair",) if self.pairs else ())))
        rows = []
        for index, row in enumerate(table.rows):
            where = table.where(index)
            label = known_label(row["label"], self.labels, where)
            found = _row(table, index, pairs=self.pairs)
            count = sum(len(found.get(column, [])) for column in _MARKS)
            if count != self.count:
                raise DataError(f"{where}: {count} spans are marked where the training data mark {self.count}")
            rows.append({**found, "label": label})
        return Table(table.name, rows, table.lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1")

    def model_class(self, config: PretrainedConfig) -> Any:
        from prefixtune.tasks.readouts import span_model

        return span_model(config, self.count)

    def model_options(self) -> dict[str, Any]:
        return label_options(self.labels)

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        if not tokenizer.is_fast:
            raise ModelError(f"spans needs a fast tokenizer to tell characters; {type(tokenizer).__name__} is slow")
        texts = [[row["text"] for row in table.rows]]
        texts += [[row["text_pair"] for row in table.rows]] if self.pairs else []
        limit = window.inputs()
        encoded = tokenizer(*texts, truncation=limit is not None, max_length=limit, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        features = []
        for index, row in enumerate(table.rows):
            places = list(zip(offsets[index], encoded.sequence_ids(index), strict=True))
            tokens = [
                _tokens(span, [pair if side == number else None for pair, side in places])
                for number, column in enumerate(_MARKS)
                for span in row.get(column, [])
            ]
            if None in tokens:
                raise DataError(
                    f"{table.where(index)}: a span has no token among the {len(places)} that there is room for"
                )
            features.append(
                {
                    **{key: values[index] for key, values in encoded.items()},
                    "spans": tokens,
                    "labels": self.labels.index(row["label"]),
                }
            )
        return features

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from transformers import DataCollatorWithPadding

        # Spans are counted from the left, whatever the side that the tokenizer pads for its own use.
        return DataCollatorWithPadding(_padding_right(tokenizer))

    def answers(self, logits: torch.Tensor, features: Sequence[Feature]) -> list[str]:
        return [self.labels[index] for index in logits.argmax(dim=-1).tolist()]

    def score(self, answers: Sequence[str], table: Table) -> dict[str, float]:
        from prefixtune import metrics

        gold = [row["label"] for row in table.rows]
        return {name: metrics.score(name, answers, gold) for name in self.metrics}


def _padding_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if tokenizer.padding_side != "right":
        raise ModelError("spans needs a tokenizer that pads on the right; set tokenizer.padding_side = 'right'")
    return tokenizer


def _row(table: Table, index: int, *, pairs: bool) -> dict[str, Any]:
    """The texts and spans of one row, checked."""
    row, where = table.rows[index], table.where(index)
    found: dict[str, Any] = {}
    for marks, column in _MARKS.items():
        if column == "text_pair" and not pairs:
            if row.get(marks):
                raise DataError(f"{where}: `spans_pair` marks a `text_pair`, but there is none")
            continue
        found[column] = as_text(row[column], where)
        found[marks] = _spans(row.get(marks) or [], len(found[column]), f"{where}, {marks}")
    return found


def _spans(given: Any, length: int, where: str) -> list[Span]:
    if isinstance(given, str):
        given = parsed(given, f"{where}: {given[:40]!r} is no JSON list of [start, end]")
    if not isinstance(given, list):
        raise DataError(f"{where}: expected a list of [start, end], got {str(given)[:40]!r}")
    spans = []
    for span in given:
        if not isinstance(span, list | tuple) or [type(end) for end in span] != [int, int]:
            raise DataError(f"{where}: {span!r} is no span; expected [start, end], two whole numbers")
        if not 0 <= span[0] < span[1] <= length:
            raise DataError(f"{where}: the span {list(span)} does not lie within the {length} characters of its text")
        spans.append((span[0], span[1]))
    return spans


def _tokens(span: Span, offsets: Sequence[Span | None]) -> Span | None:
    """The first token that has a character of the span, and the one after the last; None when no token has one."""
    hit = [i for i, pair in enumerate(offsets) if pair is not None and pair[0] < span[1] and span[0] < pair[1]]
    return (hit[0], hit[-1] + 1) if hit else None
