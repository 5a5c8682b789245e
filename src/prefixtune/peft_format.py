"""PEFT's prefix-tuning checkpoints, read and written without PEFT: the same logits there and here, or an error.

PEFT puts a prefix into a model as a filled key/value cache. Its file holds `prompt_embeddings` `[P, 2N * G * D]`, read
as `(P, 2N, G, D)`: in a model of one stack row 2l holds the keys of layer l and row 2l + 1 its values. In an
encoder-decoder PEFT doubles these rows and deals them out by four, two for self-attention and two for
cross-attention, and then empties the cross-attention: decoder layer i has the keys of row 4i mod 2N, the values follow.
(Measured with PEFT 0.21.2; for even N half of the rows reach no layer.)
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from prefixtune import seating, tiny_input
from prefixtune.bank import Bank, bank_of, check_name
from prefixtune.checkpoint import made_folder, replace_save_pretrained, write_whole
from prefixtune.errors import CheckpointError, ConfigError, ModelError, first_line
from prefixtune.geometry import SITES, Geometry, Layer
from prefixtune.methods.p_tuning_v2 import PTuningV2
from prefixtune.prefix import KeysValues, Prefix, Slot

TENSORS, CONFIG, PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
PROMPT, HEAD = "prompt_embeddings", "base_model."
TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
Model = TypeVar("Model", bound=PreTrainedModel)


def to_peft(model: PreTrainedModel, directory: str | os.PathLike[str], name: str = "default") -> None:
    """Write the prefix `name` and its task head as a PEFT PREFIX_TUNING checkpoint, for `PeftModel.from_pretrained`.

    Keys and values are plain (gates without input are folded in) and float32. A tiny forward proves that a cache filled
    with them, which is what PEFT makes, computes what this prefix computes.

    Raises ConfigError for a prefix that PEFT cannot hold (not on every layer, unequal lengths, encoder and cross sites
    of an encoder-decoder, another position offset than P, pinned in a sliding window, gates that read the input) and
    ModelError for a model on which PEFT has no prefix tuning.
    """
    bank = bank_of(model)
    prefix = bank.get(name)
    task = _task_of(model)
    _check_model(model)
    slots = _slots_of(prefix, bank.geometry)
    with torch.no_grad():
        pairs = [prefix.plain_keys_values(slot) for slot in slots]
    _check_place(prefix, slots)
    _check_config_agrees(model, slots[0])
    _prove_cache(model, bank, name, pairs)
    layer, length = slots[0].layer, slots[0].length
    layers = len(slots) | 1 if layer.encoder_decoder else len(slots)  # odd: then no two decoder layers share a row
    heads = {f"{HEAD}{key}": tensor for key, tensor in bank.heads_of(name).state_dict().items()}
    tensors = {PROMPT: _packed(pairs, layers, _rows(len(slots), layers, layer)), **heads}
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": task,
        "base_model_name_or_path": model.config._name_or_path or None,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "num_layers": layers,
        "num_attention_heads": layer.groups,
        "token_dim": layer.groups * layer.key_size,
        "encoder_hidden_size": layer.groups * layer.key_size,
        "num_transformer_submodules": 2 if layer.encoder_decoder else 1,
        "prefix_projection": False,
        "modules_to_save": list(bank.heads_of(name)) or None,
    }
    data = tensor_bytes({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, {"format": "pt"})
    folder = made_folder(directory)
    write_whole({folder / TENSORS: data, folder / CONFIG: (json.dumps(config, indent=2) + "\n").encode()})


def from_peft(model: Model, directory: str | os.PathLike[str], name: str = "default") -> Model:
    """Put a PEFT PREFIX_TUNING checkpoint into `model` as a frozen `p_tuning_v2` prefix; the same object comes back.

    It stands where PEFT puts it: at the positions before the text, scrolling out of sliding windows, in an
    encoder-decoder in the decoder's self-attention only. A task head in the checkpoint comes along. A checkpoint
    trained with a projection holds the projected keys and values, so it is read like any other.

    Raises CheckpointError for files that are missing, corrupt, of another kind or of other shapes than the model's, and
    ModelError where this model computes something else than with PEFT's cache.
    """
    config, tensors = _read(Path(directory))
    with seating.entering(model, check_name(name)) as bank:
        _check_model(model)
        layers = bank.geometry.at(_site_of(bank.geometry))
        _check_fits(config, layers, bank.geometry.model_class, directory)
        length, site = config["num_virtual_tokens"], layers[0].site
        scrolls = any(layer.window is not None for layer in layers)
        method = PTuningV2(
            length=length,
            sites=[site],
            position_offset={site: length},
            window="scroll" if scrolls else "pinned",
        )
        slots = seating.slots_for(method, model, bank, None)
        packed = tensors[PROMPT].float().view(length, -1, layers[0].groups, layers[0].key_size)
        pairs = [_unpacked(packed, row) for row in _rows(len(slots), config["num_layers"], layers[0])]
        folded: dict[str, Tensor] = {}
        for slot, (key, value) in zip(slots, pairs, strict=True):
            folded |= {f"{slot.key}.key": key, f"{slot.key}.value": value}
        prefix = method.restore(slots, folded)
        seating.install(model, name, prefix)
        try:
            _load_heads(bank.heads_of(name), tensors, directory)
            _prove_cache(model, bank, name, pairs)
        except BaseException:
            bank.remove(name)
            raise
        prefix.requires_grad_(False)
        bank.heads_of(name).requires_grad_(False)
        replace_save_pretrained(model)
    return model


def _site_of(shape: Geometry) -> str:
    """Where PEFT's prefix goes: decoder self-attention, or the encoder of a model without a decoder."""
    return "decoder" if "decoder" in shape.sites else "encoder"


def _rows(slots: int, layers: int, layer: Layer) -> list[int]:
    """For each layer of the model, the row of its keys among PEFT's 2 * `layers` rows; its values are in the next."""
    return [(4 * i) % (2 * layers) if layer.encoder_decoder else 2 * i for i in range(slots)]


def _packed(pairs: Sequence[KeysValues], layers: int, rows: Sequence[int]) -> Tensor:
    """Keys and values `[G, P, D]` of every layer as PEFT's `[P, 2 * layers * G * D]`, float32."""
    groups, length, size = pairs[0][0].shape
    packed = torch.zeros(length, 2 * layers, groups, size)
    for (key, value), row in zip(pairs, rows, strict=True):
        packed[:, row], packed[:, row + 1] = key.transpose(0, 1), value.transpose(0, 1)
    return packed.view(length, -1)


def _unpacked(packed: Tensor, row: int) -> KeysValues:
    """Keys and values `[G, P, D]` from rows `row` and `row + 1` of `(P, 2N, G, D)`."""
    return packed[:, row].transpose(0, 1).contiguous(), packed[:, row + 1].transpose(0, 1).contiguous()


def _task_of(model: PreTrainedModel) -> str:
    """PEFT's task type for the class of `model`, which decides where PEFT puts the cache. ModelError without one."""
    names = [kind.__name__ for kind in type(model).__mro__]
    tasks = [task for name in names for suffix, task in TASKS.items() if name.endswith(suffix)]
    if tiny_input.is_encoder_decoder(model):
        tasks = ["SEQ_2_SEQ_LM"] if model.can_generate() and not tasks else []
    elif not tasks:
        tasks = ["CAUSAL_LM"] if model.can_generate() else ["FEATURE_EXTRACTION"] * (model.base_model is model)
    if tasks:
        return tasks[0]
    raise ModelError(
        f"PEFT has no prefix tuning for {type(model).__name__}; expected a causal or sequence-to-sequence language "
        "model, an encoder or decoder for sequence or token classification or question answering, or the bare base; "
        "pt.save keeps this prefix in prefixtune's own format"
    )


def _check_model(model: PreTrainedModel) -> None:
    """Whether a prefix in a cache can act on `model` as one at the seam does. Raises ModelError if not."""
    base = model.base_model
    if "past_key_values" not in inspect.signature(base.forward).parameters:
        raise ModelError(
            f"{type(base).__name__} takes no past_key_values, through which PEFT's prefix enters, so PEFT cannot tune "
            "it; expected e.g. a GPT, Llama, BERT, RoBERTa, ELECTRA, BART or T5 model"
        )
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    if "chunked_attention" in kinds:
        raise ModelError(
            f"{type(model).__name__} attends in chunks: PEFT's prefix is seen by the first chunk only, one here by "
            "all; expected full or sliding-window attention"
        )


def _slots_of(prefix: Prefix, shape: Geometry) -> list[Slot]:
    """The slots of `prefix` in the order of the layers, checked: every layer of PEFT's one site, all alike."""
    site = _site_of(shape)
    layers, slots = shape.at(site), list(prefix.slots.values())
    length = max(slot.length for slot in slots)
    others = [other for other in SITES if other != site and any(slot.layer.site == other for slot in slots)]
    if others:
        raise ConfigError(
            f"the prefix has {' and '.join(others)} attention, but PEFT's reaches the {site}'s self-attention only; "
            f"expected sites=['{site}'] with position_offset={{'{site}': {length}}}"
        )
    missing = [layer.index for layer in layers if f"{site}.{layer.index}" not in prefix.slots]
    if missing:
        raise ConfigError(
            f"the prefix is on {len(slots)} of {len(layers)} {site} layers (none on {_listed(missing)}), but PEFT's is "
            "on every layer; expected layers=None and no length of 0"
        )
    lengths = [prefix.slots[f"{site}.{layer.index}"].length for layer in layers]
    if len(set(lengths)) > 1:
        raise ConfigError(
            f"the prefix has lengths {lengths}, but PEFT's has one length in every layer; expected length={length} "
            "instead of lengths"
        )
    shapes = sorted({(layer.groups, layer.key_size, layer.value_size) for layer in layers})
    if len(shapes) > 1 or shapes[0][1] != shapes[0][2]:
        found = ", ".join(f"G={groups} Dk={key} Dv={value}" for groups, key, value in shapes)
        raise ModelError(
            f"{shape.model_class} has key/value heads of {found}, but PEFT's checkpoint has one G and one D for the "
            "keys and values of every layer; pt.save keeps this prefix in prefixtune's own format"
        )
    return [prefix.slots[f"{site}.{layer.index}"] for layer in layers]


def _check_place(prefix: Prefix, slots: Sequence[Slot]) -> None:
    """Whether the prefix stands where PEFT's would: at positions 0..P-1, and inside the sliding window with them."""
    site, length = slots[0].layer.site, slots[0].length
    if prefix.offsets[site] != length:
        raise ConfigError(
            f"the first token stands at {prefix.offsets[site]} under this prefix, but at position {length} in PEFT; "
            f"expected a prefix trained with position_offset={{'{site}': {length}}}"
        )
    windows = [slot.layer.window for slot in slots if slot.layer.window is not None]
    if windows and prefix.method.window != "scroll":
        raise ConfigError(
            f"this prefix stays visible in sliding windows (of {min(windows)} tokens), but PEFT's leaves with them; "
            "expected window='scroll' from training on, or that option set in prefix_config.json before loading"
        )


def _check_config_agrees(model: PreTrainedModel, slot: Slot) -> None:
    """PEFT takes G and D from the model's config where that names key/value heads: they must be the measured ones."""
    config = model.config.to_dict()
    config = config.get("text_config", config)
    groups, size = slot.layer.groups, slot.layer.key_size
    named = config.get("num_key_value_heads") or groups, config.get("head_dim") or size
    if "num_key_value_heads" in config and named != (groups, size):
        raise ModelError(
            f"{type(model).__name__} has G={groups} key/value heads of D={size} where it attends, but its config says "
            f"G={named[0]} and D={named[1]}, which PEFT goes by; pt.save keeps this prefix in prefixtune's own format"
        )


def _prove_cache(model: PreTrainedModel, bank: Bank, name: str, pairs: Sequence[KeysValues]) -> None:
    """One tiny forward under the prefix, one with PEFT's filled cache and no prefix: the same, or ModelError."""
    inputs = tiny_input.tiny_inputs(model)
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    if (
        "input_ids" in inputs and pad is not None
    ):  # RoBERTa and kin give the pad token no position of its own: step over it
        inputs["input_ids"] = inputs["input_ids"] + (inputs["input_ids"] >= pad)
    dtype, length = model.dtype, pairs[0][0].shape[1]
    cache = DynamicCache()
    for index, (key, value) in enumerate(pairs):
        cache.update(key[None].to(model.device, dtype), value[None].to(model.device, dtype), index)
    cached: dict[str, Any] = dict(inputs, past_key_values=cache)
    if tiny_input.is_encoder_decoder(model):
        cached["past_key_values"] = EncoderDecoderCache(cache, DynamicCache())
    elif "attention_mask" in inputs:
        seen = inputs["attention_mask"]
        cached["attention_mask"] = torch.cat([seen.new_ones(1, length), seen], dim=1)
    base, what = model.base_model, type(model).__name__
    with tiny_input.quiet_evaluation(model):
        with bank.choose(name):
            ours = base(**inputs)[0].float()
        try:
            with bank.choose(None):
                theirs = base(**cached)[0].float()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ModelError(
                f"{what} cannot run with a filled cache ({first_line(error)}), through which PEFT's prefix enters, so "
                "PEFT cannot tune it"
            ) from error
    gap, size = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    if not gap <= torch.finfo(dtype).eps ** 0.5 * size:
        raise ModelError(
            f"{what} computes something else with PEFT's filled cache than with this prefix (largest difference "
            f"{gap:.2g} in states of up to {size:.2g}), so the two have no common checkpoint; if it is loaded in half "
            "precision, load it in float32 and try again"
        )


def _listed(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a PEFT prefix-tuning checkpoint, checked against each other. Raises CheckpointError."""
    config = _read_config(folder)
    path = folder / TENSORS
    if not path.is_file() and (folder / PICKLE).is_file():
        raise CheckpointError(
            f"{folder} holds its prefix in {PICKLE}, a pickle, which can run code when it is read; expected {TENSORS}: "
            "if you trust it, load it with PEFT and save it with save_pretrained(directory, safe_serialization=True)"
        )
    if not path.is_file():
        raise CheckpointError(f"{folder} has a {CONFIG} but no {TENSORS}; restore the file or save with PEFT again")
    try:
        tensors = read_tensors(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt or truncated ({error}); restore the file or save again") from error
    expected = (config["num_virtual_tokens"], 2 * config["num_layers"] * config["token_dim"])
    if PROMPT not in tensors:
        raise CheckpointError(f"{path} has no {PROMPT!r}; it holds: {_listed(sorted(tensors)) or 'nothing'}")
    if tuple(tensors[PROMPT].shape) != expected:
        raise CheckpointError(
            f"{path}: {PROMPT} has shape {tuple(tensors[PROMPT].shape)}, but {CONFIG} describes {expected} "
            "[num_virtual_tokens, 2 * num_layers * token_dim]; restore both files"
        )
    return config, tensors


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is no folder; expected one that PEFT's save_pretrained wrote")
    if not path.is_file():
        inner = sorted(str(found.parent) for found in folder.glob(f"*/{CONFIG}"))
        hint = f"; did you mean {_listed(inner)}?" if inner else "; expected a folder that PEFT's save_pretrained wrote"
        raise CheckpointError(f"{folder} holds no PEFT checkpoint: {CONFIG} is missing{hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); restore the file or save with PEFT again") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "PREFIX_TUNING":
        raise CheckpointError(f"{folder} is a PEFT checkpoint of type {kind!r}; expected 'PREFIX_TUNING'")
    for key in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"):
        value = config.get(key)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{path}: {key} is {value!r}; expected a whole number of at least 1")
    return config


def _check_fits(config: dict[str, Any], layers: Sequence[Layer], model_class: str, where: object) -> None:
    """Whether the checkpoint has the model's layers and heads. Raises CheckpointError naming both."""
    heads, width, count = config["num_attention_heads"], config["token_dim"], config["num_layers"]
    shapes = sorted({(layer.groups, layer.key_size, layer.value_size) for layer in layers})
    enough = count >= len(layers) if layers[0].encoder_decoder else count == len(layers)
    if not enough or shapes != [(heads, width // heads, width // heads)] or width % heads:
        found = ", ".join(f"G={groups} heads of Dk={key} Dv={value}" for groups, key, value in shapes)
        raise CheckpointError(
            f"{where} is a prefix for {count} layers with G={heads} key/value heads of D={width / heads:g}, but "
            f"{model_class} has {len(layers)} {layers[0].site} layers with {found}; load the base model it was trained "
            f"on ({config.get('base_model_name_or_path') or 'not named'})"
        )
    submodules = config.get("num_transformer_submodules")
    expected = 2 if layers[0].encoder_decoder else 1
    if submodules not in (None, expected):
        raise CheckpointError(
            f"{where} has num_transformer_submodules={submodules} (task {config.get('task_type')}), but {model_class} "
            f"takes a prefix with {expected}; expected a model of the class it was trained with"
        )


def _load_heads(heads: nn.ModuleDict, tensors: dict[str, Tensor], where: object) -> None:
    """Fill the task heads from a checkpoint that has them; one without leaves the model's own."""
    saved = {key.removeprefix(HEAD): tensor for key, tensor in tensors.items() if key != PROMPT}
    if not saved:
        return
    state = heads.state_dict()
    for key in sorted(saved.keys() | state.keys()):
        theirs = tuple(saved[key].shape) if key in saved else "nothing"
        ours = tuple(state[key].shape) if key in state else "nothing"
        if theirs != ours:
            raise CheckpointError(
                f"{where}: {key!r} is {theirs} in the checkpoint and {ours} in this model's task head; load the base "
                "with the class and num_labels that PEFT trained (other trained modules have no place in a prefix)"
            )
    heads.load_state_dict(saved)
