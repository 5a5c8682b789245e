"""MultiRC (Khashabi et al. 2018): which of the answers to a question about a paragraph are right?"""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.superglue import SuperGlue, files, truth
from prefixtune.tasks.readers import Row

_NUMBERS = {"false": "0", "true": "1"}


class MultiRC(SuperGlue):
    """27,243 / 4,848 answers to 5,100 / 953 questions: one row an answer, the question's id for the metrics."""

    task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("f1a:1", "exact_match")
    layout: ClassVar[str] = files("MultiRC")
    folder: ClassVar[str] = "MultiRC"
    subset: ClassVar[str | None] = "multirc"

    def rows(self, row: Row, where: str) -> list[Row]:
        if "passage" not in row:  # the hub has one row an answer
            number = f"{row['idx']['paragraph']}.{row['idx']['question']}"
            return [_answer(row["paragraph"], row["question"], row["answer"], row["label"], number)]
        return [
            _answer(row["passage"]["text"], question["question"], answer["text"], answer["label"],
                    f"{row['idx']}.{question['idx']}")
            for question in row["passage"]["questions"]
            for answer in question["answers"]
        ]  # fmt: skip


def _answer(paragraph: str, question: str, answer: str, label: object, number: str) -> Row:
    name = truth(label)
    return {
        "text": paragraph, "text_pair": f"{question} {answer}", "question_id": number,
        "label": _NUMBERS.get(name, name),
    }  # fmt: skip
