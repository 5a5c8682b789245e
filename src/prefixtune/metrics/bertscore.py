"""BERTScore (Zhang et al. 2020), 0 to 1, by the library bert-score, with a model that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefixtune.metrics.metric import TextMetric


@dataclass(frozen=True)
class BertScore(TextMetric):
    """The mean F1 of the best reference, not rescaled: `bertscore:MODEL`, or `bertscore:MODEL@LAYER`.

    Without a layer, the one that bert-score knows for the model, or the last one for a model that it does not know.
    """

    name: ClassVar[str] = "bertscore"
    libraries: ClassVar[tuple[str, ...]] = ("bert_score",)
    extra: ClassVar[str] = "reproduce"

    def missing(self) -> str | None:
        if self.argument is None:
            return "bertscore reads texts with a model and none was given: name one, e.g. --bertscore roberta-large"
        return super().missing()

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        from bert_score import BERTScorer

        assert self.argument is not None
        model, _, layer = self.argument.partition("@")
        scorer = BERTScorer(model_type=model, num_layers=_layer(model, layer), batch_size=32)
        _, _, f1 = scorer.score(list(answers), [list(texts) for texts in references])
        return float(f1.mean())


def _layer(model: str, given: str) -> int:
    from bert_score.utils import model2layers
    from transformers import AutoConfig

    if given:
        return int(given)
    return model2layers.get(model) or AutoConfig.from_pretrained(model).num_hidden_layers
