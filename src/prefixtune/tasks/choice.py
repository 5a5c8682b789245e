"""Multiple choice: `text`, `choices` -> `label`, the number of the right one; one score for each choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune.errors import DataError
from prefixtune.tasks.cells import as_text
from prefixtune.tasks.readers import Table, parsed
from prefixtune.tasks.task import Feature, HeadTask, Window, refuse_empty

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_NUMBERED = re.compile(r"choice(\d+)")


@dataclass(frozen=True)
class Choice(HeadTask):
    """The right one of several continuations of a text (COPA, and multiple choice in general).

    Each choice is read beside the text as a pair; the head scores the state of the first token (on a decoder the last).

    Columns:

    - `text`: what the choices go on from;
    - `choices`: a list of texts (in CSV as JSON), or columns `choice1`, `choice2` and so on;
    - `label`: the number of the right choice, the first one 0.

    Every row has as many choices as every other: `{"text": "It rained, so", "choices": ["he took an umbrella.", "he
    left his umbrella."], "label": 0}`.

    Args:
        count: how many choices a row has.
    """

    count: int

    kind: ClassVar[str] = "choice"
    required: ClassVar[tuple[str, ...]] = ("text", "label")
    optional: ClassVar[tuple[str, ...]] = ("choices", "choice1", "choice2", "choice3", "choice4", "choice5")
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        table.require(cls.required)
        return cls(count=len(_choices(table, 0)))

    def prepared(self, table: Table) -> Table:
        table.require(self.required)
        rows = []
        for index, row in enumerate(table.rows):
            choices = _choices(table, index)
            if len(choices) != self.count:
                raise DataError(
                    f"{table.where(index)}: {len(choices)} choices where the training data have {self.count}; expected "
                    "as many in every row"
                )
            label = _number(row["label"], self.count, table.where(index))
            rows.append({"text": as_text(row["text"], table.where(index)), "choices": choices, "label": label})
        return Table(table.name, rows, table.lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy",)

    def model_class(self, config: PretrainedConfig) -> Any:
        from prefixtune.tasks.readouts import choice_model

        return choice_model(config)

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        """Each key of a feature is a list of the choices' values."""
        limit = window.inputs()
        texts = [row["text"] for row in table.rows for _ in row["choices"]]
        choices = [choice for row in table.rows for choice in row["choices"]]
        encoded = tokenizer(texts, choices, truncation=limit is not None, max_length=limit)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        refuse_empty(table, (min(lengths[i : i + self.count]) for i in range(0, len(lengths), self.count)))
        return [
            {
                **{key: values[index * self.count : (index + 1) * self.count] for key, values in encoded.items()},
                "labels": row["label"],
            }
            for index, row in enumerate(table.rows)
        ]

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        import torch
        from transformers import DataCollatorWithPadding

        pad = DataCollatorWithPadding(tokenizer)

        def collate(features: Sequence[Feature]) -> dict[str, torch.Tensor]:
            keys = [key for key in features[0] if key != "labels"]
            flat = [{key: feature[key][i] for key in keys} for feature in features for i in range(self.count)]
            batch = {key: value.unflatten(0, (-1, self.count)) for key, value in pad(flat).items()}
            return {**batch, "labels": torch.tensor([feature["labels"] for feature in features])}

        return collate

    def answers(self, logits: torch.Tensor, features: Sequence[Feature]) -> list[int]:
        return logits.argmax(dim=-1).tolist()

    def score(self, answers: Sequence[int], table: Table) -> dict[str, float]:
        from prefixtune import metrics

        return {"accuracy": metrics.score("accuracy", answers, [row["label"] for row in table.rows])}


def _choices(table: Table, index: int) -> list[str]:
    """The choices of one row, from `choices` or from `choice1`, `choice2` and so on."""
    row, where = table.rows[index], table.where(index)
    given = row.get("choices")
    if given is None:
        numbers = sorted(int(found[1]) for key in row if (found := _NUMBERED.fullmatch(key)))
        if not numbers:
            raise DataError(
                f"{where}: no choices; expected a list in the column `choices`, or columns `choice1`, `choice2` ..."
            )
        given = [row[f"choice{number}"] for number in numbers]
        while given and given[-1] == "":  # CSV has no other way to leave a choice out
            given.pop()
    if isinstance(given, str):
        given = parsed(given, f"{where}: {given[:40]!r} is no JSON list of choices")
    if not isinstance(given, list) or any(item is None or isinstance(item, dict | list) for item in given):
        raise DataError(f"{where}: expected a list of texts to choose from, got {str(given)[:60]!r}")
    if len(given) < 2:
        raise DataError(f"{where}: {len(given)} choices; expected at least two")
    return [as_text(item, where) for item in given]


def _number(given: Any, count: int, where: str) -> int:
    text = str(given).strip()
    whole = text.removesuffix(".0") if isinstance(given, float) else text
    if isinstance(given, bool) or not _NUMBER.fullmatch(whole) or int(whole) >= count:
        raise DataError(f"{where}: the label {given!r} is no number of a choice; expected 0 (the first) to {count - 1}")
    return int(whole)
