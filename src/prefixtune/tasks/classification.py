"""Sequence classification: `text` (and `text_pair`) -> `label`, by a new head on the frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune.errors import DataError, near_miss
from prefixtune.tasks.readers import Table
from prefixtune.tasks.task import Feature, HeadTask, Window, label_name, ordered_labels

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Classification(HeadTask):
    """One label for one text or a pair of texts.

    Args:
        labels: the classes, in the order of the head's outputs.
        pairs: whether there is a second text.
    """

    labels: tuple[str, ...]
    pairs: bool = False

    kind: ClassVar[str] = "classification"
    required: ClassVar[tuple[str, ...]] = ("text", "label")
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        table.require(cls.required)
        labels = ordered_labels({label_name(row["label"], table.where(i)) for i, row in enumerate(table.rows)})
        if len(labels) < 2:
            raise DataError(f"{table.name} has only the label {labels[0]!r}; classification needs at least two")
        return cls(labels=labels, pairs="text_pair" in table.columns())

    def prepared(self, table: Table) -> Table:
        columns = ("text", "text_pair") if self.pairs else ("text",)
        table.require((*columns, "label"))
        rows = []
        for index, row in enumerate(table.rows):
            label = label_name(row["label"], table.where(index))
            if label not in self.labels:
                raise DataError(
                    f"{table.where(index)}: the label {label!r} was not seen in training{near_miss(label, self.labels)}"
                )
            rows.append({**{column: str(row[column]) for column in columns}, "label": label})
        return Table(table.name, rows, table.lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "mcc")

    def model_class(self, config: PretrainedConfig) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
            "ignore_mismatched_sizes": True,  # the head is new whatever head the base model came with
        }

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        texts = [[row["text"] for row in table.rows]]
        texts += [[row["text_pair"] for row in table.rows]] if self.pairs else []
        limit = window.inputs()
        encoded = tokenizer(*texts, truncation=limit is not None, max_length=limit)
        return [
            {**{key: values[index] for key, values in encoded.items()}, "labels": self.labels.index(row["label"])}
            for index, row in enumerate(table.rows)
        ]

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def answers(self, logits: torch.Tensor, features: Sequence[Feature]) -> list[str]:
        return [self.labels[index] for index in logits.argmax(dim=-1).tolist()]

    def score(self, answers: Sequence[str], table: Table) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        gold = [row["label"] for row in table.rows]
        seen = sorted(set(gold) | set(answers))  # a class that neither side names says nothing about the model
        return {
            "accuracy": float(accuracy_score(gold, answers)),
            "macro_f1": float(f1_score(gold, answers, labels=seen, average="macro", zero_division=0.0)),
            "mcc": float(matthews_corrcoef(gold, answers)),
        }
