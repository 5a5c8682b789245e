"""MultiRC (Khashabi et al. 2018): which of the answers to a question about a paragraph are right?"""

from __future__ import annotations

from typing import ClassVar

from prefixtune.corpora.corpus import text_in
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
    columns: ClassVar[str | None] = "passage with text and questions: a question, and its answers with text and label"

    def rows(self, row: Row, where: str) -> list[Row]:
        if "passage" not in row:  # the hub has one row an answer
            number = f"{row['idx']['paragraph']}.{row['idx']['question']}"
            paragraph, question, answer = (text_in(row, name, where) for name in ("paragraph", "question", "answer"))
            return [_answer(paragraph, question, answer, truth(row, where), number)]
        paragraph = text_in(row["passage"], "text", where)
        return [
            _answer(paragraph, text_in(question, "question", where), text_in(answer, "text", where),
                    truth(answer, where), f"{row['idx']}.{question['idx']}")
            for question in row["passage"]["questions"]
            for answer in question["answers"]
        ]  # fmt: skip


def _answer(paragraph: str, question: str, answer: str, label: str, number: str) -> Row:
    return {
        "text": paragraph, "text_pair": f"{question} {answer}", "question_id": number, "label": _NUMBERS[label],
    }  # fmt: skip
