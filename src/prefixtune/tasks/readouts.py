"""Models with a head that transformers has no class for: read off marked spans, or one score for each choice.

Each is the body that `AutoModel` loads with one new linear layer outside it, made as transformers makes its own
`...ForTokenClassification`: so any architecture's checkpoints load, and a prefix carries a copy of the head.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MultipleChoiceModelOutput, SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

from prefixtune.errors import ModelError

HEAD = "readout"
"""The name of the new layer among the model's children."""


def span_model(config: PretrainedConfig, spans: int) -> type[PreTrainedModel]:
    """The model class that classifies a text by its summary and `spans` marked spans."""
    return _checked(config, _Spans, "Spans", spans)


def choice_model(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The model class that gives each of several texts a score."""
    return _checked(config, _Choice, "Choice", 0)


def _checked(config: PretrainedConfig, reader: type, name: str, spans: int) -> type[PreTrainedModel]:
    kind: Any = type(config)
    made = _class(kind, reader, name, spans)
    if config.is_encoder_decoder:
        raise ModelError(
            f"{made.body_class.__name__} is an encoder-decoder; its text has no one summary: use an encoder"  # type: ignore[attr-defined]
        )
    return made


@functools.cache
def _class(config: type, reader: type, name: str, spans: int) -> type[PreTrainedModel]:
    found: Any = MODEL_MAPPING.get(config, None)
    body = found[0] if isinstance(found, tuple) else found
    if body is None:
        raise ModelError(f"transformers' AutoModel knows no model for {config.__name__}")
    (parent, *_) = [kind for kind in body.__mro__[1:] if issubclass(kind, PreTrainedModel)]
    if not parent.base_model_prefix:
        raise ModelError(f"{body.__name__} has no family of models with heads; expected a body such as BertModel")
    fields = {"body_class": body, "reads_first": config in MODEL_FOR_MASKED_LM_MAPPING, "spans": spans}
    # Its own config class: a family's may be that of its largest member, with text and images.
    made = type(f"{body.__name__.removesuffix('Model')}For{name}", (reader, parent), fields | {"config_class": config})
    assert issubclass(made, PreTrainedModel)
    return made


class _Readout:
    """What both models share. Mixed into a family's `...PreTrainedModel`, which knows its checkpoints.

    `reads_first`: whether a text's summary is the state of its first token (encoders, [CLS]) or of its last (decoders).
    """

    body_class: type[PreTrainedModel]
    reads_first: bool
    spans: int
    base_model_prefix: str
    post_init: Any

    def __init__(self, config: PretrainedConfig, width: int, outputs: int) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        # A pooler would be half of a head that the checkpoint may lack.
        bare = {"add_pooling_layer": False} if "add_pooling_layer" in _arguments(self.body_class.__init__) else {}
        setattr(self, self.base_model_prefix, self.body_class(config, **bare))
        text = config.get_text_config()
        states = getattr(text, "word_embed_proj_dim", text.hidden_size)  # OPT narrows its last states
        rate = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.0) if rate is None else rate)
        setattr(self, HEAD, nn.Linear(width * states, outputs))
        self.post_init()

    def states(self, input_ids: Tensor, attention_mask: Tensor | None, **inputs: Any) -> Tensor:
        """The body's last hidden states, `[B, T, d]`."""
        body = getattr(self, self.base_model_prefix)
        return body(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state

    def summary(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """The state `[B, d]` of each text's first or last real token."""
        if mask is None:
            return states[:, 0 if self.reads_first else -1]
        real = mask.long()
        place = real.argmax(-1) if self.reads_first else real.shape[1] - 1 - real.flip(-1).argmax(-1)
        return states[torch.arange(len(states), device=states.device), place]

    def read(self, values: Tensor) -> Tensor:
        """The new layer, after dropout."""
        return getattr(self, HEAD)(self.dropout(values))


class _Spans(_Readout):
    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, 1 + self.spans, len(config.id2label or ()))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, spans: Tensor | None = None,
        labels: Tensor | None = None, **inputs: Any,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """Logits `[B, C]` of the summary and the mean state of each span.

        Args:
            spans: `[B, S, 2]`, the first token of each span and the one after its last; None: each is the whole row.
        """
        states = self.states(input_ids, attention_mask, **inputs)  # [B, T, d]
        B, T, _ = states.shape
        if spans is None:
            spans = torch.tensor([0, T], device=states.device).expand(B, self.spans, 2)
        place = torch.arange(T, device=states.device)
        inside = (place >= spans[..., :1]) & (place < spans[..., 1:])  # [B, S, T]
        weight = inside.to(states.dtype) / inside.sum(-1, keepdim=True).to(states.dtype)
        parts = torch.cat([self.summary(states, attention_mask)[:, None], weight @ states], dim=1)
        logits = self.read(parts.flatten(1))
        loss = None if labels is None else cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class _Choice(_Readout):
    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config, 1, 1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> MultipleChoiceModelOutput:
        """Logits `[B, C]` of texts `[B, C, T]`, one a choice; texts `[B, T]` have one choice.

        The body sees `[B * C, T]`, the choices of a row beside each other: so prefixes named for B rows fit.
        """
        choices = input_ids.shape[1] if input_ids.ndim == 3 else 1
        flat = {
            key: value.flatten(0, 1) if isinstance(value, Tensor) and value.ndim == 3 else value
            for key, value in {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}.items()
        }
        scores = self.read(self.summary(self.states(**flat), flat["attention_mask"]))  # [B * C, 1]
        logits = scores.view(-1, choices)
        loss = None if labels is None else cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(loss=loss, logits=logits)


def _arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)
