"""Dataclasses as command line options, and YAML files as defaults under them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
import yaml
from cyclopts import Group, Parameter, Token
from cyclopts.argument import ArgumentCollection

from prefixtune.errors import ConfigError, near_miss

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", re.ASCII)
"""A number that YAML may take for a word: it reads 1.0e-3, but not 1e-3."""
_SCALARS = (int, float, str, bool, type(None))


def parameters_of(config: type, group: Group) -> list[inspect.Parameter]:
    """One keyword parameter for every field of the dataclass `config`, its attribute docstring as its help."""
    hints = typing.get_type_hints(config)
    docs = _attribute_docs(config)
    found = []
    for field in dataclasses.fields(config):
        shape = _scalar(hints[field.name]) if _is_scalar(hints[field.name]) else _structured(hints[field.name])
        option = Parameter(help=docs.get(field.name), group=group, **shape)
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        annotation: Any = Annotated.__class_getitem__((hints[field.name], option))  # type: ignore[attr-defined]
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(field.name, kind, default=default, annotation=annotation))
    return found


def whole(_: Any, tokens: Sequence[Token]) -> int | None:
    """A whole number from one word: cyclopts' own would round 2.5 to 2."""
    (token,) = tokens
    if token.value.strip().lower() in ("none", "null"):
        return None
    try:
        return int(token.value)
    except ValueError as error:  # cyclopts names the option
        raise ValueError(f"{token.value!r} is no whole number") from error


Whole = Annotated[int, Parameter(converter=whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=whole)]


def _scalar(hint: Any) -> dict[str, Any]:
    kinds = set(_members(hint))
    return {"converter": whole} if kinds <= {int, type(None)} else {}


def with_parameters(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    """`function` with the `parameters` in the place of its `**options`."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = typing.get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in own]
    function.__signature__ = inspect.Signature([*own, *parameters])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in (*own, *parameters)}
    return function


def _attribute_docs(config: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        if not dataclasses.is_dataclass(base):
            continue
        for field in docstring_parser.parse_from_object(base).params:
            docs[field.arg_name] = " ".join((field.description or "").split())
    return docs


def read_yaml(path: Path) -> dict[str, Any]:
    """A run's YAML file as a mapping with flag-like keys; a `ConfigError` names what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        data, twice = yaml.safe_load(text), _repeated_keys(text)
    except OSError as error:
        raise ConfigError(f"cannot read the run file {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        got = "an empty file" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path}: expected a mapping of options, got {got}")
    if twice:
        raise ConfigError(f"{path}: the key {twice[0]!r} appears twice; expected each key once")
    return {str(key).replace("-", "_"): value for key, value in data.items()}


def _repeated_keys(text: str) -> list[str]:
    """Keys of a YAML mapping that stand there more than once: the parser takes the last without a word."""
    root = yaml.compose(text, yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    keys = [str(key.value).replace("-", "_") for key, _ in pairs]
    return [key for key in keys if keys.count(key) > 1]


def defaults_from(settings: Mapping[str, Any], source: str) -> Callable[..., None]:
    """A source of cyclopts that fills every option the command line left open; an unknown key is a `ConfigError`."""

    def apply(app: Any, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        known = {name.removeprefix("--").replace("-", "_"): a for a in arguments for name in a.names}
        for key, value in settings.items():
            if key not in known:
                raise ConfigError(f"{source}: unknown key {key!r}{near_miss(key, _long(known))}")
            argument = known[key]
            if value is None and not _takes_none(argument.hint):
                raise ConfigError(f"{source}: the key {key!r} is empty; expected a value, or no such key")
            if not argument.tokens and value != argument.field_info.default:
                argument.append(Token(keyword=key, value=_word(value), source=source))

    return apply


def _long(names: Mapping[str, Any]) -> list[str]:
    return [name for name in names if not name.startswith(("no_", "empty_"))]


def _takes_none(hint: Any) -> bool:
    return type(None) in _members(hint)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_scalar(hint: Any) -> bool:
    return all(option in _SCALARS or typing.get_origin(option) is typing.Literal for option in _members(hint))


def _structured(hint: Any) -> dict[str, Any]:
    """How a list or a mapping is read from one word."""
    members = _members(hint)
    scalar = int in members  # `position_offset` takes a number as well as a mapping
    mapping_only = all(typing.get_origin(option) in (dict, None) for option in members)
    inner = {part for option in members for part in typing.get_args(option) if part is not Ellipsis}

    def convert(_: Any, tokens: Sequence[Token]) -> Any:
        token = tokens[-1]
        if len(tokens) > 1:
            raise ConfigError(f"{token.keyword} is given {len(tokens)} times; expected once, its values as A,B")
        return parse_structured(
            token.value, token.keyword or "", single=scalar, mapping=mapping_only and not scalar, words=inner == {str}
        )

    one_word = {"n_tokens": 1, "accepts_keys": False, "json_list": False, "json_dict": False, "negative": ()}
    return {"converter": convert, **one_word}


def _item(text: str) -> Any:
    """A number, a truth, none or a list as YAML has it; every other word as it stands, `#` and `~` too."""
    if text.lower() in ("none", "null"):
        return None
    if _EXPONENT.fullmatch(text):
        return float(text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    read = isinstance(value, int | float) or text[:1] in ("[", "{", '"', "'")
    return value if read else text


def column_names(text: str | None) -> dict[str, str] | None:
    """The value of --columns: `source=mr,target=ref`."""
    return parse_structured(text, "--columns", single=False, mapping=True, words=True) if text else None


def parse_structured(text: str, option: str, *, single: bool, mapping: bool, words: bool = False) -> Any:
    """One word as a list (`3,4,5`), a mapping (`encoder=3,decoder=4`), or either as JSON; `none` is None.

    Args:
        text: the word.
        option: whose value it is, for the message.
        single: a lone value is that value, not a list of one.
        mapping: only a mapping will do.
        words: what stands in it are names, also `2024` and `yes`.
    """
    item = str if words else _item
    text = text.strip()
    if text.lower() in ("none", "null"):
        return None
    if text.startswith(("[", "{")):
        try:
            return yaml.load(text, yaml.BaseLoader) if words else yaml.safe_load(text)  # noqa: S506 - strings alone
        except yaml.YAMLError as error:
            raise ConfigError(f"{option} {text!r} is neither JSON nor YAML") from error
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if all("=" in part for part in parts) and parts:
        pairs = (part.partition("=") for part in parts)
        return {key.strip(): item(value.strip()) for key, _, value in pairs}
    if mapping or any("=" in part for part in parts):
        raise ConfigError(f"{option} {text!r}: expected name=value pairs, as in source=mr,target=ref")
    items = [item(part) for part in parts]
    return items[0] if single and len(items) == 1 else items
