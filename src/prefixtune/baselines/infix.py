"""Infix-tuning: `[x; INFIX; y]`, an ablation of Prefix-Tuning (Li & Liang 2021, section 7.3).

Learned keys and values in every layer, as in a prefix, that only the last source token and what follows see. The
infix stands in front of that last token (the end of the separator), so it and the target stand P positions further.
The source cannot be changed by the infix, which is what makes it weaker than a prefix. The paper has no more of it than
the formula; its code adds these keys and values to those of tokens of their own, which read the source.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

import prefixtune as pt
from prefixtune.attention import AttentionCall
from prefixtune.bank import bank_of
from prefixtune.errors import ConfigError
from prefixtune.methods.p_tuning_v2 import PTuningV2
from prefixtune.methods.prefix_tuning import PrefixTuning
from prefixtune.positions import real_positions, text_mask
from prefixtune.prefix import KeysValues, Method, Prefix, Slot
from prefixtune.tasks import Task
from prefixtune.tasks.task import IGNORED, Feature
from prefixtune.tasks.text2text import Text2Text
from prefixtune.training.baseline import Baseline

NAME = "infix"
PLACE = "infix_from"
"""The batch's extra column `[B]`: the index of the first token that sees the infix, the last of the source."""


@dataclass(kw_only=True)
class Infix(Baseline):
    """Text to text on a decoder. The place comes from the labels in training, and is the prompt's end in generation."""

    length: int = 10
    """Infix length P: how many key/value vectors every layer gets."""

    hidden: int | None = 512
    """Width of the train-time MLP, as in Prefix-Tuning; none: keys and values are trained themselves."""

    init: str = "random"
    """Start of keys and values: 'random', 'zeros' or 'text:<words>'."""

    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if model.config.is_encoder_decoder:
            raise ConfigError("infix stands between source and target of a decoder; expected a decoder-only model")
        self.insert(model, tokenizer)

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        method = InfixMethod(inner=self._method(), length=self.length, position_offset=0)
        pt.attach(model, method, name=NAME, tokenizer=tokenizer)
        prefix = bank_of(model).get(NAME)
        assert isinstance(prefix, InfixPrefix)
        model.register_forward_pre_hook(prefix.place, with_kwargs=True)
        model.register_forward_hook(prefix.close, always_call=True)

    def positions(self, model: PreTrainedModel) -> int:
        return self.length

    def fitted(self, task: Task) -> Task:
        if not isinstance(task, Text2Text):
            raise ConfigError(f"infix stands between a source and a target; expected text2text, not {task.kind}")
        return PlacedText2Text(**{field.name: getattr(task, field.name) for field in fields(task)})

    def stored(self, model: PreTrainedModel) -> int:
        return bank_of(model).get(NAME).stored_parameters()

    def _method(self) -> Method:
        if self.hidden is None:
            return PTuningV2(length=self.length, init=self.init)
        return PrefixTuning(length=self.length, hidden=self.hidden, init=self.init)


@dataclass(kw_only=True)
class InfixMethod(Method):
    """Another method's keys and values, seen from the end of the source on."""

    inner: Method

    @property
    def start(self) -> str:
        return self.inner.start

    def check(self, slots: Sequence[Slot]) -> None:
        if any(not slot.layer.causal for slot in slots):
            raise ConfigError("infix stands between source and target of a decoder; expected a causal model")

    def build(self, slots: Sequence[Slot], start: Mapping[str, KeysValues] | None, dtype: torch.dtype) -> Prefix:
        return InfixPrefix(self, slots, self.inner.build(slots, start, dtype))

    def restore(self, slots: Sequence[Slot], folded: Mapping[str, Tensor]) -> Prefix:
        return InfixPrefix(self, slots, self.inner.restore(slots, folded))


class Placed(tuple[Tensor, Tensor]):
    """Keys and values of one forward, and which of its queries see them.

    Gradient checkpointing runs layers again when the model has long forgotten the place, or has another one.
    """

    seen_from: Tensor | float


class InfixPrefix(Prefix):
    """Keys and values behind a mask that the forward's place decides."""

    def __init__(self, method: Method, slots: Sequence[Slot], inner: Prefix) -> None:
        super().__init__(method, slots)
        self.inner = inner
        self.longest = max(slot.length for slot in slots)
        # Which queries of the forward now running see the infix, from here on: `[B]`, or one number for all rows.
        # None do when the model's body is run by itself, which is how a search reads all but the end of its prompts.
        self.seen_from: Tensor | float = math.inf

    def keys_values(self, slot: Slot) -> KeysValues:
        return self.inner.keys_values(slot)

    def made_ahead(self, sites: Sequence[str]) -> Mapping[str, KeysValues]:
        made, placed = self.inner.made_ahead(sites), {}
        for name, slot in self.slots.items():
            if slot.layer.site in sites:
                placed[name] = Placed(made[name] if name in made else self.keys_values(slot))
                placed[name].seen_from = self.seen_from
        return placed

    def attend(self, call: AttentionCall, slot: Slot) -> tuple[Tensor, Tensor | None]:
        B, T = call.query.shape[0], call.query.shape[2]
        assert isinstance(call.made, Placed)  # the seam brings it in every forward
        place = call.made.seen_from
        if not isinstance(place, float) or place > 0:
            seen = _behind(place, T, call.query.device)[:, None, :, None]  # [B|1, 1, T, 1]
            call = replace(call, prefix_mask=seen.expand(B, 1, T, slot.length))
        return super().attend(call, slot)

    def fold(self) -> dict[str, Tensor]:
        return self.inner.fold()

    def place(self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the model: where the infix stands in each row, and positions moved behind it."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        assert isinstance(ids, Tensor)
        T = ids.shape[1]
        given, cache = kwargs.pop(PLACE, None), kwargs.get("past_key_values")
        past = cache.get_seq_length() if isinstance(cache, Cache) else 0
        if given is None and not past and T > 1 and kwargs.get("use_cache") is False:
            raise ConfigError("an infix is found again in generation by the cache; expected use_cache=True")
        if given is not None:
            self.seen_from = given
        else:  # a prompt is all source, and what follows a filled cache is its end or the target
            self.seen_from = 0.0 if past else float(T - 1)
        positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
        if positions is None:
            positions = real_positions(ids, text_mask(mask, past, None), past)
        if mask is None:  # without one, the leap in the positions would be that of a packed row
            mask = torch.ones(len(ids), past + T, dtype=torch.long, device=ids.device)
        moved = positions + self.longest * _behind(self.seen_from, T, ids.device).long()
        return args, kwargs | {"position_ids": moved, "attention_mask": mask}

    def close(self, model: PreTrainedModel, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the model, called after an error too."""
        self.seen_from = math.inf


def _behind(seen_from: Tensor | float, length: int, device: torch.device) -> Tensor:
    """`[B|1, T]`: which of the queries see the infix."""
    return torch.arange(length, device=device) >= torch.as_tensor(seen_from, device=device).view(-1, 1)


class PlacedText2Text(Text2Text):
    """Text to text whose batches say where each row's source ends."""

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        return functools.partial(_placed, super().collator(model, tokenizer))

    def packer(self, model: PreTrainedModel) -> None:
        """Nothing packs them: each row has a place of its own."""


def _placed(collate: Any, features: Sequence[Feature]) -> dict[str, Tensor]:
    batch = dict(collate(features))
    return batch | {PLACE: (batch["labels"] != IGNORED).int().argmax(dim=1) - 1}
