"""Where keys and values start: random, zeros, or those of a text, read off the frozen model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefixtune.errors import ConfigError, check_characters
from prefixtune.geometry import Geometry, observe
from prefixtune.positions import first_position, learned_positions
from prefixtune.prefix import KeysValues, Method, Slot
from prefixtune.tiny_input import is_encoder_decoder

TEXT = "text:"


def text_of(method: Method) -> str | None:
    """The words a prefix starts as, or None. Raises ConfigError for an unknown start."""
    start = method.start
    if start.startswith(TEXT):
        if not start.removeprefix(TEXT).strip():
            raise ConfigError("init='text:' has no words; expected e.g. init='text:summarize'")
        return start.removeprefix(TEXT)
    if start not in ("random", "zeros"):
        raise ConfigError(f"init={start!r} is unknown; expected 'random', 'zeros' or 'text:<words>'")
    return None


def token_ids(
    text: str, model: PreTrainedModel, geometry: Geometry, tokenizer: PreTrainedTokenizerBase | None
) -> Tensor:
    """The ids `[1, n]` of a text, as it would stand in front of another.

    A decoder's text begins as its tokenizer begins one (a first token is where attention goes to rest) and does not
    end; elsewhere a text stands without special tokens.
    """
    check_characters(text, "the text")
    if tokenizer is None:
        tokenizer = _own_tokenizer(model)
    in_decoder = geometry.sites == ("decoder",)
    # verbose: what is too long is cut or refused by `start_for`.
    ids = tokenizer(text, add_special_tokens=in_decoder, return_tensors="pt", verbose=False).input_ids
    if in_decoder and ids.shape[1] > 1 and ids[0, -1] == tokenizer.eos_token_id:
        ids = ids[:, :-1]
    if ids.shape[1] == 0:
        raise ConfigError(f"the text {text!r} has no tokens; expected words that the tokenizer knows")
    return ids.to(model.device)


def _own_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    where = model.config._name_or_path
    try:
        if not where:
            raise OSError("the model was not loaded from anywhere")
        return AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"a start from text needs a tokenizer and none was found beside the model ({where or 'no path'}); "
            "pass attach(model, method, tokenizer=...)"
        ) from error


def start_for(
    method: Method, model: PreTrainedModel, geometry: Geometry, slots: Sequence[Slot], ids: Tensor | None
) -> dict[str, KeysValues] | None:
    """Keys and values for each slot to start from, or None for the method's own random ones."""
    dtype = parameter_dtype(model)
    if ids is not None:
        longest = max(slot.length for slot in slots)
        return text_keys_values(model, geometry, slots, _what_is_read(model, geometry, ids, longest), dtype)
    if method.start == "zeros":
        return {slot.key: tuple(torch.zeros(shape, dtype=dtype) for shape in slot.shapes()) for slot in slots}  # type: ignore[misc]
    return None


def _what_is_read(model: PreTrainedModel, geometry: Geometry, ids: Tensor, longest: int) -> Tensor:
    """The text, again from its start until it fills the longest slot, as far as the model is to read it.

    Where no token sees those behind it, nothing behind the longest slot changes what is kept. Elsewhere all of the text
    is read, once at least. Raises ConfigError where the model has fewer positions than that takes.
    """
    causal = geometry.sites == ("decoder",)
    stacks = [model.get_submodule(path) for path in {layer.stack for layer in geometry.layers}]
    tables = [(table, first_position(stack)) for stack in stacks if (table := learned_positions(stack)) is not None]
    limit = min((table - first for table, first in tables), default=None)
    needed = longest if causal else max(longest, ids.shape[1])
    if limit is not None and needed > limit:
        raise ConfigError(
            f"the text that the prefix starts as takes {needed} positions, but {type(model).__name__} has {limit}; "
            f"expected a {'shorter prefix' if causal else 'shorter text'}"
        )
    return ids.repeat(1, -(-longest // ids.shape[1]))[:, : longest if causal else limit]


def parameter_dtype(model: PreTrainedModel) -> torch.dtype:
    """float32, or float64 where the model is: a prefix is trained in full precision under a half-precision model."""
    return torch.promote_types(torch.float32, model.dtype)


def text_keys_values(
    model: PreTrainedModel, geometry: Geometry, slots: Sequence[Slot], ids: Tensor, dtype: torch.dtype
) -> dict[str, KeysValues]:
    """The keys and values of the first tokens of `ids` `[1, n]` in every slot, as the attention sees them.

    A text shorter than a slot's length is read again from its start. Decoders read it at positions 0, 1, ...
    On the CPU, where a prefix is built before it goes to the model's device.
    """
    seen: dict[str, KeysValues] = {}
    turns: dict[nn.Module, int] = {}
    paths = {module: path for path, module in model.named_modules()}
    names = {(layer.module, layer.turn): f"{layer.site}.{layer.index}" for layer in geometry.layers}

    def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: object) -> None:
        turn = turns.get(module, 0)
        turns[module] = turn + 1
        seen[names[paths[module], turn]] = (key[0].to("cpu", dtype), value[0].to("cpu", dtype))

    if model.main_input_name != "input_ids":
        raise ConfigError(
            f"{type(model).__name__} reads {model.main_input_name}, not text; use init='random' or 'zeros'"
        )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = ids
    body = model.base_model if model.get_output_embeddings() is None else model
    observe(model, lambda: body(**inputs), record)
    return {
        slot.key: (seen[slot.key][0][:, : slot.length].clone(), seen[slot.key][1][:, : slot.length].clone())
        for slot in slots
    }
