"""The base model and its tokenizer, as a task needs them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixtune.errors import ConfigError, DataError, ModelError
from prefixtune.tasks.task import Feature, Task, Window

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_REPORTERS = (
    "transformers.modeling_utils",
    "transformers.utils.loading_report",
    "transformers.distributed.tensor_parallel",
    "transformers.integrations.tensor_parallel",
    "huggingface_hub.utils._http",
)
DTYPES = ("auto", "float32", "bfloat16", "float16")
_RESIZE = "give it the tokenizer that it was trained with, or save it after model.resize_token_embeddings"


def load_base(
    model_id: str, task: Task | None, *, dtype: str = "auto", dropout: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with the head its task needs, and its tokenizer, ready to pad.

    Args:
        model_id: a folder or a hub id.
        task: which model class to load; None: a language model, or the bare body of a base that writes no texts.
        dtype: `auto` keeps the weights as they are stored.
        dropout: False sets every dropout rate of the base model to 0.

    Raises:
        ModelError: no such model or damaged files, weights of the base model that are missing or of another shape, or
            a tokenizer with tokens that the model has no embedding for.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    with named_failure(model_id), quiet():
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(model_id)
        tokenizer = AutoTokenizer.from_pretrained(model_id, **_tokenizer_options(task))
    rates = {} if dropout else _zero_dropout(config)
    loader = _own_class(config) if task is None else _class_for(config, task, model_id)
    options = task.model_options() if task else {}
    with named_failure(model_id), quiet():
        # Of other shapes may be the head, which is new whatever head the base model came with; the rest is refused.
        model, report = loader.from_pretrained(
            model_id, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **rates, **options
        )
    _refuse_holes(model, report, model_id)
    _make_paddable(model, tokenizer)
    _refuse_unknown_tokens(model, tokenizer, model_id)
    return model, tokenizer


def check_class(model_id: str, task: Task) -> None:
    """Raise ModelError where there is no class of the base model with the head that `task` needs; nothing is loaded."""
    from transformers import AutoConfig

    with named_failure(model_id), quiet():
        config = AutoConfig.from_pretrained(model_id)
    _class_for(config, task, model_id)


def _class_for(config: PretrainedConfig, task: Task, model_id: str) -> Any:
    from transformers import PreTrainedModel

    loader = task.model_class(config)
    if not issubclass(loader, PreTrainedModel) and type(config) not in loader._model_mapping:
        what = loader.__name__.removeprefix("AutoModel")
        raise ModelError(
            f"{model_id}: transformers has no {config.model_type} model {what}, as {task.kind} needs; use another base"
        )
    return loader


def window(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix_length: int, max_length: int | None = None
) -> Window:
    """How many real tokens fit beside a prefix that occupies `prefix_length` positions."""
    from prefixtune.positions import first_position

    bounds, targets = [], None
    if tokenizer.model_max_length < 1_000_000:  # transformers writes 1e30 for "unknown"
        bounds.append(tokenizer.model_max_length)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        bounds.append(positions - prefix_length - first_position(model))
        if model.config.is_encoder_decoder:
            targets = getattr(model.config, "max_decoder_position_embeddings", positions) - prefix_length
    specials = tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= specials:
        raise ConfigError(f"max_length is {max_length}; expected more than the {specials} special tokens of each input")
    return Window(positions=min(bounds, default=None), max_length=max_length, targets=targets)


_PROBE = "In 2021, Anna's 3 cats (naïve & quick) didn't run.\nÜbrigens: a_b, x-1 <tag>!"


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What tells two tokenizers apart that give one text other tokens: a digest of those of a fixed text and a pair.

    It does not change with tokens that were added and are not in it, nor with the format of a tokenizer's files.
    """
    texts = (_PROBE,), tuple(_PROBE.split()[:2])
    found = [tokenizer(*given, verbose=False)["input_ids"] for given in texts]  # of models with room for fewer, too
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _own_class(config: PretrainedConfig) -> Any:
    """A language model where the base writes texts, the bare body where it only reads them."""
    from transformers import AutoModel

    from prefixtune.tasks.text2text import Text2Text, reads_all_at_once

    return AutoModel if reads_all_at_once(config) else Text2Text().model_class(config)


def _tokenizer_options(task: Task | None) -> dict[str, Any]:
    # Byte-level tokenizers (GPT-2, RoBERTa) take words only when each is known to begin with a space.
    words = {"add_prefix_space": True} if task is not None and task.kind == "tagging" else {}
    return {"padding_side": "right", "truncation_side": "right", **words}


def _zero_dropout(config: PretrainedConfig) -> dict[str, Any]:
    """Every dropout rate of a configuration, as 0 (names: attn_pdrop, hidden_dropout_prob, dropout, layerdrop ...)."""
    values = config.to_dict()
    return {name: 0.0 for name, rate in values.items() if "drop" in name and isinstance(rate, float)}


def _refuse_holes(model: PreTrainedModel, report: dict[str, Any], model_id: str) -> None:
    """Weights that are drawn anew are expected in a new head only; elsewhere the base model would be half random."""
    from prefixtune.heads import head_names

    heads = [*head_names(model), "pooler"]  # of a bare body: masked language models are saved without
    misfits = sorted(misfit for misfit in report["mismatched_keys"] if misfit[0].partition(".")[0] not in heads)
    if misfits:
        name, stored, expected = misfits[0]
        further = f" (and {len(misfits) - 1} further weights)" if misfits[1:] else ""
        raise ModelError(
            f"{model_id}: {name} is {tuple(stored)} in the file of weights, but {tuple(expected)} by its configuration"
            f"{further}; restore the config.json that these weights were saved with"
        )
    missing = sorted(key for key in report["missing_keys"] if key.partition(".")[0] not in heads)
    if missing:
        raise ModelError(
            f"{model_id} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])} ...); "
            "a prefix needs a pretrained base model"
        )


def _make_paddable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError("the tokenizer has neither a pad token nor an end token; set one of them to batch texts")
        tokenizer.pad_token = tokenizer.eos_token
    config = model.config.get_text_config()
    # A decoder's classification head finds the last token by it; a language model has no use for it.
    reads_it = model.config.is_encoder_decoder or model.get_output_embeddings() is None
    if reads_it and config.pad_token_id != tokenizer.pad_token_id:
        config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _refuse_unknown_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, model_id: str) -> None:
    """Raise ModelError where padding, an end or ordinary text would be looked up behind the last embedding.

    A special token that nobody writes by itself (Gemma's for an image, in its models of text) may have no embedding; a
    text that has it all the same is refused when the model reads it.
    """
    from torch import nn

    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        return
    rows = table.num_embeddings
    for role in ("eos", "pad"):  # the pad token may be the end token
        number = getattr(tokenizer, f"{role}_token_id")
        if number is not None and number >= rows:
            raise ModelError(
                f"{model_id}: the {role} token {tokenizer.convert_ids_to_tokens(number)!r} of the tokenizer is number "
                f"{number}, but the model has {rows} embeddings; {_RESIZE}"
            )
    added = [number for number, token in tokenizer.added_tokens_decoder.items() if not token.special]
    most = max([tokenizer.vocab_size, *(number + 1 for number in added)])
    if most > rows:
        raise ModelError(f"{model_id}: the tokenizer has {most} tokens, but the model has {rows} embeddings; {_RESIZE}")
    if max(tokenizer.added_tokens_decoder, default=0) >= rows:
        hook = partial(_refuse_token, tokenizer)
        for module in model.modules():  # an encoder and a decoder may each have a module of the same weights
            if isinstance(module, nn.Embedding) and module.num_embeddings == rows:
                module.register_forward_pre_hook(hook)


def _refuse_token(tokenizer: PreTrainedTokenizerBase, table: nn.Embedding, given: tuple[Tensor]) -> None:
    if given and given[0].numel():
        _check_token(tokenizer, int(given[0].max()), table.num_embeddings)


def _check_token(tokenizer: PreTrainedTokenizerBase, number: int, rows: int) -> None:
    if number >= rows:
        raise DataError(
            f"a text has the token {tokenizer.convert_ids_to_tokens(number)!r}, number {number} of the tokenizer, but "
            f"the model has {rows} embeddings; take the token out of the texts, or save the model after "
            "model.resize_token_embeddings"
        )


def check_tokens(features: Iterable[Feature], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise DataError where an input or a target has a token without an embedding, before the model reads it."""
    from torch import nn

    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding):
        columns = (feature.get(name) for feature in features for name in ("input_ids", "labels"))
        most = max((_highest(ids) for ids in columns if isinstance(ids, list)), default=0)
        _check_token(tokenizer, most, table.num_embeddings)


def _highest(ids: list[Any]) -> int:
    """The highest number of one text, or of the choices of one example."""
    return max(map(_highest, ids)) if ids and isinstance(ids[0], list) else max(ids, default=0)


@contextlib.contextmanager
def named_failure(model_id: str) -> Iterator[None]:
    """What goes wrong while a model is loaded, as one ModelError."""
    try:
        yield
    except Exception as error:  # damaged files end in errors of every kind; those of tokenizers have no class of theirs
        reason = " ".join(str(error).split()).partition(" Model type should be one of")[0]  # a hundred names
        if not isinstance(error, OSError | ValueError):  # a KeyError, say, tells no more than the key
            reason = f"{type(error).__name__} ({reason or 'no message'}); restore its files, or get them again"
        nowhere = "" if Path(model_id).exists() else "there is no such folder here, and as a hub id: "
        raise ModelError(f"cannot load the model {model_id!r}: {nowhere}{reason}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers' reports on missing and unsharded weights are read by `_refuse_holes` instead of being printed.

    That the hub cannot be reached is in the error that follows.
    """
    from transformers.utils import logging as progress

    loggers = [logging.getLogger(name) for name in _REPORTERS]
    levels = [logger.level for logger in loggers]
    shown = progress.is_progress_bar_enabled()
    try:
        progress.disable_progress_bar()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            progress.enable_progress_bar()
