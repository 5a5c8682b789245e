"""Sequence classification: `text` (and `text_pair`) -> `label`, by a new head on the frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune import metrics
from prefixtune.errors import DataError, ModelError
from prefixtune.tasks.cells import as_text, known_label, label_options, learned_labels
from prefixtune.tasks.readers import Table
from prefixtune.tasks.task import Feature, HeadTask, Window, refuse_empty

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Classification(HeadTask):
    """One label for one text or a pair of texts.

    Columns: `text`, `label`, and `text_pair` where there are two texts. Where rows are the answers to one question each
    (MultiRC: `text` the paragraph, `text_pair` question and answer, two labels), a column `question_id` says to which,
    and the scores are MultiRC's: F1 over all answers, of the label that comes last, and exact match over questions.

    Args:
        labels: the classes, in the order of the head's outputs.
        pairs: whether there is a second text.
        questions: whether rows are answers to questions.
    """

    labels: tuple[str, ...]
    pairs: bool = False
    questions: bool = False

    kind: ClassVar[str] = "classification"
    required: ClassVar[tuple[str, ...]] = ("text", "label")
    libraries: ClassVar[tuple[str, ...]] = ("sklearn",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair", "question_id")

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        table.require(cls.required)
        labels = learned_labels(table, cls.kind)
        questions = "question_id" in table.columns()
        if questions and len(labels) != 2:
            raise DataError(
                f"{table.name} has a column 'question_id', which marks answers that are right or wrong, but the labels "
                f"{', '.join(labels)}; expected two labels, or no such column"
            )
        return cls(labels=labels, pairs="text_pair" in table.columns(), questions=questions)

    def prepared(self, table: Table) -> Table:
        columns = ("text", "text_pair") if self.pairs else ("text",)
        kept = ("question_id",) if self.questions else ()
        table.require((*columns, *kept, "label"))
        rows = []
        for index, row in enumerate(table.rows):
            label = known_label(row["label"], self.labels, table.where(index))
            texts = {column: as_text(row[column], table.where(index)) for column in (*columns, *kept)}
            rows.append({**texts, "label": label})
        return Table(table.name, rows, table.lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1a", "exact_match", "accuracy") if self.questions else ("accuracy", "macro_f1", "mcc")

    def model_class(self, config: PretrainedConfig) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> dict[str, Any]:
        return {**label_options(self.labels), "problem_type": "single_label_classification"}

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        texts = [[row["text"] for row in table.rows]]
        texts += [[row["text_pair"] for row in table.rows]] if self.pairs else []
        limit = window.inputs()
        encoded = tokenizer(*texts, truncation=limit is not None, max_length=limit)
        refuse_empty(table, map(len, encoded["input_ids"]))
        if model.config.is_encoder_decoder and "classification_head" in model._modules:  # BART, T5 and their kin
            _check_ends(table, encoded["input_ids"], model.config.eos_token_id)
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
        gold = [row["label"] for row in table.rows]
        if not self.questions:
            return {name: metrics.score(name, answers, gold) for name in self.metrics}
        marked = [(row["question_id"], row["label"]) for row in table.rows]
        return {
            "f1a": metrics.score(f"f1a:{self.labels[-1]}", answers, marked),
            "exact_match": metrics.score("exact_match", answers, marked),
            "accuracy": metrics.score("accuracy", answers, gold),
        }


def _check_ends(table: Table, ids: Sequence[Sequence[int]], end: int) -> None:
    """The head of an encoder-decoder reads the last end token of each text, and counts as many in all of a batch."""
    counts = [list(one).count(end) for one in ids]
    usual = max(set(counts), key=counts.count)
    if not any(counts):
        raise ModelError(
            f"classification on this encoder-decoder reads its end token ({end}), which its tokenizer sets behind no "
            "text; expected a tokenizer that does, as the model's own"
        )
    for index, count in enumerate(counts):
        if count != usual:
            raise DataError(
                f"{table.where(index)}: {count} end tokens, where the others have {usual}; take them out of the text"
            )
