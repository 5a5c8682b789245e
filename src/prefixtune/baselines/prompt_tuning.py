"""Prompt tuning: P virtual tokens at the input and nothing in the layers (Lester et al. 2021, arXiv 2104.08691).

This is the "embedding-only" ablation of Li & Liang 2021, section 7.2.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from prefixtune.errors import ConfigError
from prefixtune.initialisation import TEXT, parameter_dtype
from prefixtune.training.baseline import MODULE, Baseline, measured


@dataclass(kw_only=True)
class PromptTuning(Baseline):
    """`[PROMPT; x]` at the input. An encoder's virtual tokens stand behind its first token, which poolers read."""

    length: int = 10
    """Virtual tokens P."""

    init: str = "words"
    """Start of the embeddings: 'words' (of tokens drawn at random), 'random', or 'text:<words>'."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(f"length={self.length}: expected at least 1 virtual token")
        if self.init not in ("words", "random") and not self.init.removeprefix(TEXT).strip():
            raise ConfigError("init='text:' has no words; expected e.g. init='text:summarize'")
        if self.init not in ("words", "random") and not self.init.startswith(TEXT):
            raise ConfigError(f"init={self.init!r} is unknown; expected 'words', 'random' or 'text:<words>'")

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        layers = measured(model).layers
        first = layers[0]  # the encoder's, where there is one
        stack = model.get_submodule(first.stack)
        assert isinstance(stack, PreTrainedModel)
        behind = 1 if first.site == "encoder" and not first.encoder_decoder else 0
        prompt = Prompt(self._start(stack, tokenizer), stack, behind, cut=not first.encoder_decoder)
        model.add_module(MODULE, prompt.to(model.device))
        stack.register_forward_pre_hook(prompt.enter, with_kwargs=True)
        stack.register_forward_hook(prompt.leave)
        if first.site == "decoder":
            vars(model)["generate"] = functools.partial(_generate_afresh, model)
        if first.encoder_decoder:
            reader = model.get_submodule(next(layer.stack for layer in layers if layer.site == "cross"))
            reader.register_forward_pre_hook(prompt.read, with_kwargs=True)

    def positions(self, model: PreTrainedModel) -> int:
        return self.length

    def _start(self, stack: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """`[P, d]`."""
        table: Any = stack.get_input_embeddings()
        weight, P = table.weight.detach(), self.length
        if self.init == "random":
            return torch.randn(P, weight.shape[1], dtype=parameter_dtype(stack)) * weight.float().std().cpu()
        if self.init == "words":
            ids = torch.randint(len(weight), (P,))
        else:
            words = tokenizer(self.init.removeprefix(TEXT), add_special_tokens=False)["input_ids"]
            ids = torch.tensor((words * P)[:P])
        return table(ids.to(weight.device)).detach().to(parameter_dtype(stack))  # as scaled as the model scales them


def _generate_afresh(model: Any, *args: Any, past_key_values: Cache | None = None, **options: Any) -> Any:
    """`generate` from the whole prompt: a cache filled beforehand is longer than the text it would be counted by."""
    return type(model).generate(model, *args, **options)


class Prompt(nn.Module):
    """The virtual tokens of one stack, and the hooks that put them in and take them out again."""

    def __init__(self, start: Tensor, stack: PreTrainedModel, behind: int, *, cut: bool) -> None:
        super().__init__()
        self.embedding = nn.Parameter(start.clone())
        self.behind, self.cut = behind, cut
        self.names = tuple(inspect.signature(stack.forward).parameters)
        self.entered = False  # whether the forward now running has the virtual tokens in its input

    def enter(self, stack: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the stack. A cache that is filled has the virtual tokens already."""
        named = dict(zip(self.names, args, strict=False)) | kwargs
        cache, P = named.get("past_key_values"), len(self.embedding)
        self.entered = not (isinstance(cache, Cache) and cache.get_seq_length())
        if self.entered:
            table: Any = stack.get_input_embeddings()
            embeds = named.get("inputs_embeds")
            embeds = table(named["input_ids"]) if embeds is None else embeds
            prompt = self.embedding.to(embeds.dtype).expand(len(embeds), -1, -1)
            named |= {"input_ids": None, "inputs_embeds": self._insert(embeds, prompt)}
        positions, mask, types = (named.get(key) for key in ("position_ids", "attention_mask", "token_type_ids"))
        if mask is not None:
            named["attention_mask"] = self._longer(mask)
        if positions is not None and not self.entered:
            named["position_ids"] = positions + P
        elif positions is not None:
            head, tail = positions[:, : self.behind], positions[:, self.behind :] + P
            between = torch.arange(self.behind, self.behind + P, device=positions.device).expand(len(positions), -1)
            named["position_ids"] = torch.cat([head, between, tail], dim=1)
        if types is not None and self.entered:
            named["token_type_ids"] = self._insert(types, types.new_zeros(len(types), P))
        return (), named

    def leave(self, stack: PreTrainedModel, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook of the stack: the states of the text alone, unless a decoder reads the virtual tokens', too."""
        if not self.entered or not self.cut:
            return output
        if isinstance(output, tuple):
            return (self._without(output[0]), *output[1:])
        output.last_hidden_state = self._without(output.last_hidden_state)
        return output

    def read(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a decoder: the padding mask of what it reads is as long as that."""
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if mask is not None and states is not None and mask.shape[-1] != states.shape[1]:
            kwargs["encoder_attention_mask"] = self._longer(mask)
        return args, kwargs

    def _longer(self, mask: Any) -> Tensor:
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise ConfigError("prompt_tuning takes a padding mask [B, S]; generate with the default (dynamic) cache")
        return self._insert(mask, mask.new_ones(len(mask), len(self.embedding)))

    def _insert(self, text: Tensor, more: Tensor) -> Tensor:
        return torch.cat([text[:, : self.behind], more, text[:, self.behind :]], dim=1)

    def _without(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, : self.behind], states[:, self.behind + len(self.embedding) :]], dim=1)
