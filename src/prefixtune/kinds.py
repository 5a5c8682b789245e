"""Whether a value, of a file or of the command line, is of the kind that its field is declared with."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "names with values"}


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type. A bool is no number; a whole number is a float, too.

    What stands in a mapping is for its reader to judge.
    """
    if get_origin(kind) is UnionType:
        return any(is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_of(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return is_of(value, int)


def told(kind: Any) -> str:
    """A declared type in words: `a whole number`."""
    kinds = [one for one in get_args(kind) if one is not NoneType] if get_origin(kind) is UnionType else [kind]
    return " or ".join(_NAMES[get_origin(one) or one] for one in kinds)
