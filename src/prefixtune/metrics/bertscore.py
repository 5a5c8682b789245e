"""BERTScore (Zhang et al. 2020), 0 to 1, by the library bert-score, with a model that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prefixtune.metrics.metric import TextMetric
from prefixtune.positions import first_position

if TYPE_CHECKING:
    from bert_score import BERTScorer


@dataclass(frozen=True)
class BertScore(TextMetric):
    """The mean F1 of the best reference, not rescaled: `bertscore:MODEL`, or `bertscore:MODEL@LAYER`.

    Without a layer, the one that bert-score knows for the model, or the last one for a model that it does not know. An
    empty text has 0.
    """

    name: ClassVar[str] = "bertscore"
    libraries: ClassVar[tuple[str, ...]] = ("bert_score",)
    extra: ClassVar[str] = "reproduce"

    def missing(self) -> str | None:
        if self.argument is None:
            return "bertscore reads texts with a model and none was given: name one, e.g. --bertscore roberta-large"
        return super().missing()

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        assert self.argument is not None
        pairs = zip(answers, ([text for text in texts if text.strip()] for texts in references), strict=True)
        told = [(answer, texts) for answer, texts in pairs if answer.strip() and texts]  # else bert-score fails
        if not told:
            return 0.0
        model, _, layer = self.argument.partition("@")
        _, _, f1 = _scorer(model, _layer(model, layer)).score(*map(list, zip(*told, strict=True)))
        return float(f1.sum()) / len(answers)


def _scorer(model: str, layer: int) -> BERTScorer:
    """bert-score's own, with its tokenizer as it is meant to be.

    Transformers 5 heeds no `add_prefix_space` in `encode`, and a tokenizer that names no length cuts nowhere.
    """
    from bert_score import BERTScorer
    from transformers import AutoTokenizer, GPT2Tokenizer, RobertaTokenizer

    scorer = BERTScorer(model_type=model, num_layers=layer, batch_size=32)
    if isinstance(scorer._tokenizer, GPT2Tokenizer | RobertaTokenizer):
        scorer._tokenizer = AutoTokenizer.from_pretrained(model, add_prefix_space=True)
    positions = getattr(scorer._model.config, "max_position_embeddings", None) or 1_000_000  # none: any length
    room = positions - first_position(scorer._model)
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, room)
    return scorer


def _layer(model: str, given: str) -> int:
    from bert_score.utils import model2layers
    from transformers import AutoConfig

    if given:
        return int(given)
    return model2layers.get(model) or AutoConfig.from_pretrained(model).num_hidden_layers
