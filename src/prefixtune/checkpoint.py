"""Prefixes on disk: safetensors and a JSON header, written whole or not at all, and never onto another base model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from transformers import PreTrainedModel

import prefixtune
from prefixtune import methods, seating
from prefixtune.bank import Bank, bank_of, check_name
from prefixtune.errors import CheckpointError, ConfigError, first_line
from prefixtune.heads import BANK
from prefixtune.identity import Identity, identity_of
from prefixtune.kinds import is_whole
from prefixtune.prefix import Method, Prefix, Slot

TENSORS, CONFIG = "prefix.safetensors", "prefix_config.json"
TRAINING = "model.safetensors"
"""In a Trainer's `checkpoint-<step>` folder: the trainable tensors, so that resuming and the best model work."""

FORMAT = 1
_CHECKPOINT = re.compile(r"checkpoint-\d+")
"""A Trainer's folder, which holds all that is trained."""
Model = TypeVar("Model", bound=PreTrainedModel)


def save(
    model: PreTrainedModel, directory: str | os.PathLike[str], name: str = "default", metadata: Mapping | None = None
) -> None:
    """Write the prefix `name`, folded, and its task head: `prefix.safetensors` and `prefix_config.json`.

    `metadata` is kept in the header as it is (JSON); None keeps what the prefix was loaded with. Warns of what is
    trained beside the prefix and is not in these files.
    Raises ConfigError when there is no such prefix, or when its method could not be found again.
    """
    bank = bank_of(model)
    prefix = bank.get(name)
    methods.check_findable(prefix.method)
    heads = {f"head.{key}": tensor.detach().clone() for key, tensor in bank.heads_of(name).state_dict().items()}
    tensors = {key: tensor.contiguous().cpu() for key, tensor in (prefix.fold() | heads).items()}
    data = tensor_bytes(tensors, metadata={"format": "pt"})
    header = {
        "format": FORMAT,
        "prefixtune_version": prefixtune.__version__,
        "name": name,
        "method": prefix.method.name(),
        "options": prefix.method.options(),
        "slots": {key: slot.length for key, slot in prefix.slots.items()},
        "position_offset": prefix.offsets,
        "stored_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "base_model": identity_of(model, bank.geometry).to_json(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "metadata": dict(bank.metadata.get(name, {}) if metadata is None else metadata),
    }
    folder = made_folder(directory)
    text = json.dumps(header, indent=2) + "\n"
    write_whole({folder / TENSORS: data, folder / CONFIG: text.encode()})
    if not _CHECKPOINT.fullmatch(folder.name) and (others := _trained_beside(model)):
        logging.getLogger("prefixtune").warning(
            "%s holds the prefix alone: %d tensors of the model are trained beside it (%s, ...) and lost if you do not "
            "keep them, as in model.state_dict()",
            folder,
            len(others),
            next(iter(others)),
        )


def made_folder(directory: str | os.PathLike[str]) -> Path:
    """The folder, made where it was not there. Raises CheckpointError when a file stands in its place."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(f"{error.filename} is a file; expected a folder to write to") from error
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made ({error.strerror}); choose another folder") from error
    return Path(directory)


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write files beside their places first and then move all of them there, so that none is ever half-written."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, part in parts.items():
            with open(part, "wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a saved prefix, checked. Raises CheckpointError when it is missing or not one of ours."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} holds no prefix: {CONFIG} is missing; expected a folder that save() wrote")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); save the prefix again or restore the file") from error
    needed = ("format", "method", "options", "slots", "base_model", "sha256", "name")
    missing = [key for key in needed if not isinstance(header, dict) or key not in header]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; expected a header that save() wrote")
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {header['format']!r} but this prefixtune ({prefixtune.__version__}) reads format "
            f"{FORMAT}; use the prefixtune that wrote it ({header.get('prefixtune_version', 'unknown')})"
        )
    _check_types(header, path)
    return header


def _check_types(header: Mapping[str, Any], path: Path) -> None:
    kinds = {"method": str, "options": dict, "slots": dict, "sha256": str, "name": str}
    later = {key: dict for key in ("position_offset", "metadata") if key in header}  # loading can do without them
    for key, kind in (kinds | later).items():
        if not isinstance(header[key], kind):
            raise CheckpointError(
                f"{path}: {key} is {str(header[key])[:60]!r}, expected a {kind.__name__}; restore the file"
            )
    for site, offset in header.get("position_offset", {}).items():
        if not is_whole(offset):
            raise CheckpointError(
                f"{path}: position_offset of {site} is {offset!r}, expected a whole number; restore the file"
            )
    for slot, length in header["slots"].items():
        if not re.fullmatch(r"[a-z]+\.[0-9]+", slot):
            raise CheckpointError(f"{path}: {slot!r} names no layer, expected e.g. 'decoder.0'; restore the file")
        if not is_whole(length) or length < 1:
            raise CheckpointError(f"{path}: the length of {slot} is {length!r}, expected at least 1; restore the file")
    try:
        Identity.from_json(header["base_model"])
    except ValueError as error:
        raise CheckpointError(f"{path}: base_model is malformed ({error}); restore the file") from error


def read_prefix(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a saved prefix, both checked. Raises CheckpointError when one is missing or corrupt."""
    header = read_config(directory)
    path = Path(directory) / TENSORS
    if not path.is_file():
        raise CheckpointError(f"{directory} has a {CONFIG} but no {TENSORS}; restore the file or save again")
    data = path.read_bytes()
    try:
        tensors = read_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt or truncated ({error}); restore the file or save again") from error
    if hashlib.sha256(data).hexdigest() != header["sha256"]:
        raise CheckpointError(f"{path} is not the file that {CONFIG} describes (sha256 differs); restore both files")
    return header, tensors


def load(
    model: Model, directory_or_hub_id: str | os.PathLike[str], name: str | None = None, trainable: bool = False
) -> Model:
    """Put a saved prefix into `model`, under `name` or the name it was saved as; the same object comes back.

    Frozen, unless `trainable`: then its keys, values, gates and head are trained on as they are.
    Raises CheckpointError for a missing or corrupt file and for a prefix of another base model.
    """
    header, tensors = read_prefix(local_folder(directory_or_hub_id))
    chosen = check_name(name if name is not None else header["name"])
    method = method_from(header)
    with seating.entering(model, chosen) as bank:
        _check_base(header, identity_of(model, bank.geometry), directory_or_hub_id)
        slots = _slots_from(header, bank)
        _check_shapes(slots, tensors, directory_or_hub_id)
        prefix = _restored(method, slots, tensors, directory_or_hub_id)
        seating.install(model, chosen, prefix)
        try:
            _load_heads(bank.heads_of(chosen), tensors, directory_or_hub_id)
        except CheckpointError:
            bank.remove(chosen)
            raise
        bank.metadata[chosen] = header.get("metadata", {})
        _name_classes(model, bank, chosen)
        prefix.requires_grad_(trainable)
        bank.heads_of(chosen).requires_grad_(trainable)
        replace_save_pretrained(model)
    return model


def local_folder(directory_or_hub_id: str | os.PathLike[str]) -> Path:
    """The folder itself, or the local copy of a hub repository. Raises CheckpointError when there is neither."""
    folder = Path(directory_or_hub_id)
    if folder.is_dir():
        return folder
    where = str(directory_or_hub_id)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", where):
        raise CheckpointError(f"{where!r} is neither a folder nor a hub id (owner/name)")
    try:
        return Path(snapshot_download(where, allow_patterns=[TENSORS, CONFIG]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        told = f"{where!r} is not a local folder and could not be fetched from the hub: {first_line(error)}"
        raise CheckpointError(told) from error


def method_from(header: Mapping[str, Any]) -> Method:
    """The method with the options of a header. Raises CheckpointError when this version does not know one of them."""
    try:
        return methods.find(header["method"])(**header["options"])
    except (TypeError, ConfigError) as error:
        name, wrote = header["method"], header.get("prefixtune_version", "unknown")
        remedy = f"it was written by prefixtune {wrote}, this is {prefixtune.__version__}"
        if wrote == prefixtune.__version__ and name not in methods.names():
            remedy = (
                "if it is one of your own, import its file before loading, or put it into prefixtune/methods, where "
                "the command line finds it, too"
            )
        raise CheckpointError(f"the saved method {name!r} cannot be made here: {error}; {remedy}") from error


def _check_base(header: Mapping[str, Any], ours: Identity, where: object) -> None:
    theirs = Identity.from_json(header["base_model"])
    if not theirs.is_same_base(ours):
        raise CheckpointError(
            f"{where} is a prefix for {theirs.named()}, but this model is {ours.named()}; load the base that it was "
            f"trained on{_hint(theirs, ours)}"
        )


def _hint(theirs: Identity, ours: Identity) -> str:
    """What may be wrong where half of two identities agrees."""
    if theirs.shape == ours.shape and (other := sorted(theirs.differing(ours))):
        said = ", ".join(f"{key} {theirs.settings[key]}, now {ours.settings[key]}" for key in other)
        return f", whose config had {said}"
    if theirs.shape != ours.shape and theirs.fingerprints and theirs.fingerprints == ours.fingerprints:
        return ", in the class that it was trained in: the weights are the same"
    if (theirs.shape, theirs.name) == (ours.shape, ours.name):
        return (
            ": weights that were wrapped (LoRA) or changed since are another base, and weights that its files lack (a "
            "pooler) are drawn anew at every load; save the whole base once"
        )
    return ""


def _slots_from(header: Mapping[str, Any], bank: Bank) -> tuple[Slot, ...]:
    layers = {f"{layer.site}.{layer.index}": layer for layer in bank.geometry.layers}
    unknown = [key for key in header["slots"] if key not in layers]
    if unknown:
        raise CheckpointError(f"the prefix has layers that the model lacks: {', '.join(unknown)}")
    return tuple(Slot(layers[key], length) for key, length in header["slots"].items())


def _check_shapes(slots: tuple[Slot, ...], tensors: Mapping[str, Tensor], where: object) -> None:
    for slot in slots:
        for kind, expected in zip(("key", "value"), slot.shapes(), strict=True):
            found = tensors.get(f"{slot.key}.{kind}")
            if found is None or tuple(found.shape) != expected:
                got = "nothing" if found is None else f"shape {tuple(found.shape)}"
                raise CheckpointError(f"{where}: {slot.key}.{kind} should have shape {expected} [G, P, D], got {got}")


def _restored(
    method: Method, slots: tuple[Slot, ...], tensors: Mapping[str, Tensor], where: str | os.PathLike[str]
) -> Prefix:
    """The prefix as it was saved: what it would save again has the names and shapes that the file has."""
    try:
        prefix = method.restore(slots, tensors)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{where}: not the tensors of {method.name()!r} ({error}); restore {TENSORS}") from error
    ours = {key: tuple(tensor.shape) for key, tensor in prefix.fold().items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in tensors.items() if not key.startswith("head.")}
    for key in sorted(ours.keys() | theirs.keys()):
        if (got := theirs.get(key, "nothing")) != (wanted := ours.get(key, "nothing")):
            raise CheckpointError(f"{where}: {key} should be {wanted}, got {got}; restore {TENSORS}")
    if amiss := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{where}: {amiss[0]} has NaN or infinity, as after training diverged; train it anew")
    return prefix


def _load_heads(heads: nn.ModuleDict, tensors: Mapping[str, Tensor], where: object) -> None:
    saved = {key.removeprefix("head."): tensor for key, tensor in tensors.items() if key.startswith("head.")}
    state = heads.state_dict()
    for key in saved.keys() | state.keys():
        if key not in saved or key not in state or saved[key].shape != state[key].shape:
            theirs = tuple(saved[key].shape) if key in saved else "nothing"
            ours = tuple(state[key].shape) if key in state else "nothing"
            raise CheckpointError(
                f"{where}: the task head {key!r} is {theirs} in the file and {ours} in this model; load the base with "
                "the class and num_labels that the prefix was trained with"
            )
    heads.load_state_dict(saved)


def _name_classes(model: PreTrainedModel, bank: Bank, name: str) -> None:
    """Let the model call its classes as the prefix's head was trained to, until detach.

    A pipeline reads them from the configuration, where the base has its own order, or none. One line tells of another.
    """
    task = bank.metadata[name].get("task")
    labels = task.get("labels") if isinstance(task, dict) else None
    config: Any = model.config
    if not bank.heads_of(name) or not isinstance(labels, list) or len(labels) != config.num_labels:
        return
    before, names = config.id2label, dict(enumerate(labels))
    if before == names:
        return
    if set(before.values()) != {f"LABEL_{index}" for index in names}:
        warnings.warn(
            f"the classes are called as {name!r} was trained, {labels}; they were called {list(before.values())}",
            stacklevel=3,
        )
    for key, value in (("id2label", names), ("label2id", {label: index for index, label in names.items()})):
        bank.undo.append(partial(setattr, config, key, getattr(config, key)))
        setattr(config, key, value)


def trainable_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """Everything a training run changes, by state_dict name: train-time parts of prefixes, heads, and constants.

    And what else of the model is trained, a LoRA or its norms.
    """
    own = {f"{BANK}.{key}": tensor for key, tensor in bank_of(model).state_dict().items()}
    return own | _trained_beside(model)


def _trained_beside(model: PreTrainedModel) -> dict[str, Tensor]:
    """What has a gradient and belongs to no prefix."""
    own = f"{BANK}."
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and not n.startswith(own)}


def replace_save_pretrained(model: PreTrainedModel) -> None:
    """Make `save_pretrained` write prefixes instead of a copy of the base, until detach."""
    bank = bank_of(model)
    if "save_pretrained" in vars(model):
        return
    _override(model, bank, "save_pretrained", partial(_save_pretrained, model))
    # Trainer warns of every base weight that a checkpoint of ours does not hold, unless it is told so.
    _override(model, bank, "_keys_to_ignore_on_save", NotSaved(model))


class NotSaved(Collection[str]):
    """The names of what a Trainer's checkpoint leaves out, as they are when they are asked for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def _names(self) -> set[str]:
        return self.model.state_dict().keys() - trainable_state(self.model).keys()

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


def _override(model: PreTrainedModel, bank: Bank, name: str, value: object) -> None:
    """Set an attribute of this one model until detach."""
    own = vars(model)
    bank.undo.append(partial(setattr, model, name, own[name]) if name in own else partial(delattr, model, name))
    own[name] = value


def _save_pretrained(
    model: PreTrainedModel, save_directory: str | os.PathLike[str], is_main_process: bool = True, **options: Any
) -> None:
    """Write the trainable prefixes (all, where none is): one into the folder itself, several into folders by name.

    In a Trainer's `checkpoint-<step>` folder also the trainable tensors as `model.safetensors`, MLP included.
    """
    if options.get("push_to_hub"):
        raise ConfigError("save_pretrained(push_to_hub=True) is not for prefixes; use model.push_to_hub(repo)")
    if not is_main_process:
        return
    bank = bank_of(model)
    trained = [name for name in bank.names if any(p.requires_grad for p in bank.get(name).parameters())]
    chosen = trained or bank.names
    for name in chosen:
        save(model, Path(save_directory) / name if len(chosen) > 1 else save_directory, name)
    if _CHECKPOINT.fullmatch(Path(save_directory).name):
        state = {key: tensor.contiguous() for key, tensor in trainable_state(model).items()}
        data = tensor_bytes(state, metadata={"format": "pt"})
        write_whole({Path(save_directory) / TRAINING: data})
