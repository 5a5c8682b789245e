"""Attach, detach, use: a prefix goes into a model and comes out without a trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune import checkpoint, initialisation, seating
from prefixtune.attention import AttentionCall
from prefixtune.bank import bank_of, check_name, names_in
from prefixtune.errors import ConfigError
from prefixtune.prefix import Method, Prefix, Slot
from prefixtune.tiny_input import is_encoder_decoder, quiet_evaluation

Model = TypeVar("Model", bound=PreTrainedModel)


def attach(
    model: Model, method: Method, name: str = "default", tokenizer: PreTrainedTokenizerBase | None = None
) -> Model:
    """Put a fresh trainable prefix into `model` and freeze the rest; the same object comes back.

    The prefix that came last is the one every row uses, until `using` says otherwise. A task head that the model has
    outside its base is copied, trained and saved with the prefix. `tokenizer` is read for a start from text; without
    it, the one beside the model is used. Tiny forwards prove that every expected layer is reached, and that the model
    without its prefix is still itself.

    Raises ModelError when the model's attention cannot take a prefix, ConfigError when the method's options do not fit
    the model or `name` is taken; the model is then as it was.
    """
    if not isinstance(method, Method):
        raise ConfigError(f"expected a method, e.g. PrefixTuning(length=10), but got {type(method).__name__}")
    text = initialisation.text_of(method)
    with seating.entering(model, check_name(name)) as bank:
        ids = None if text is None else initialisation.token_ids(text, model, bank.geometry, tokenizer)
        slots = seating.slots_for(method, model, bank, None if ids is None else ids.shape[1])
        with bank.choose(None):
            start = initialisation.start_for(method, model, bank.geometry, slots, ids)
        prefix = method.build(slots, start, initialisation.parameter_dtype(model))
        seating.install(model, name, prefix)
        checkpoint.replace_save_pretrained(model)
    return model


def detach(model: Model, name: str | None = None) -> Model:
    """Take one prefix out, or (name None) all of them; after the last, the model is bit for bit the base model.

    Raises ConfigError when nothing is attached or `name` does not exist.
    """
    bank = bank_of(model)
    if name is not None:
        bank.remove(name)
    if name is None or not bank.names:
        seating.unseat(model)
    return model


def prefixes(model: PreTrainedModel) -> list[str]:
    """The names of the prefixes in `model`, in the order they came."""
    return names_in(model)


@contextmanager
def using(model: PreTrainedModel, names: str | Sequence[str | None] | None) -> Iterator[None]:
    """Within the context, every row uses the prefix `names`, or row i the prefix `names[i]`; None is the bare model.

    With a list, the batch has one row for each entry, or a multiple of it in runs (beams, returned sequences). Name
    every row of a model that repeats its batch as a whole inside (the guidance in Dia's generation).

    Raises ConfigError for a name that does not exist and for a batch that does not fit.
    """
    with bank_of(model).choose(names):
        yield


def gates(model: PreTrainedModel, **inputs: Any) -> dict[str, Tensor]:
    """How far the prefix in use is open, `{site: [B, L, P]}`: lambda times alpha, averaged over real positions.

    L counts the layers that have a prefix; where lengths differ, the missing positions are NaN, and so is a whole row
    of padding, which has no text to average over. Source: APT, the gate weights of its section 4.4. Raises ConfigError
    when the prefix in use has no gates.
    """
    bank = bank_of(model)
    seen: dict[str, dict[int, Tensor]] = {}

    def watch(prefix: Prefix, slot: Slot, call: AttentionCall) -> None:
        gate = prefix.gate(call, slot)
        if gate is None:
            raise ConfigError(f"{prefix.method.name()!r} has no gates; expected a prefix of the method 'adaptive'")
        if call.rows is not None:
            raise ConfigError("gates(model, ...) reads one prefix at a time; choose one name with using(model, name)")
        seen.setdefault(slot.layer.site, {})[slot.layer.index] = _mean_over_text(gate, call)

    with bank.watched(watch), quiet_evaluation(model):
        model(**_with_both_masks(model, inputs))
    if not seen:
        raise ConfigError("no prefix is in use, so there are no gates; choose one with using(model, name)")
    return {site: _stacked([layers[index] for index in sorted(layers)]) for site, layers in seen.items()}


def _with_both_masks(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """A classifier on an encoder-decoder reads its text a second time, in the decoder, with the same padding."""
    takes, given = inspect.signature(model.forward).parameters, inputs.get("attention_mask")
    again = is_encoder_decoder(model) and model.get_output_embeddings() is None and "decoder_attention_mask" in takes
    if not again or given is None or any(name.startswith("decoder_") for name in inputs):
        return inputs
    return {**inputs, "decoder_attention_mask": given}


def _mean_over_text(gate: Tensor, call: AttentionCall) -> Tensor:
    """`[B|1, T|1, P]` to `[B, P]`."""
    B, T = call.query.shape[0], call.query.shape[2]
    gate = gate.expand(B, T, -1)
    weight = torch.ones_like(gate[..., :1]) if call.real is None else call.real[..., None].to(gate.dtype)
    return (gate * weight).sum(1) / weight.sum(1)


def _stacked(layers: list[Tensor]) -> Tensor:
    """Layers of `[B, P_l]` as one `[B, L, P]`, short ones filled with NaN."""
    longest = max(layer.shape[1] for layer in layers)
    return torch.stack(
        [torch.nn.functional.pad(layer, (0, longest - layer.shape[1]), value=float("nan")) for layer in layers], dim=1
    )
