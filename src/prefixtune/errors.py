"""Errors: one base class, few subclasses. Every message names what was given, what was expected and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrefixtuneError(Exception):
    """Base of every error prefixtune raises on purpose; the command line prints it as one line and exits with 2."""


class ConfigError(PrefixtuneError, ValueError):
    """An option or argument does not fit: an unknown method, lengths of the wrong count, a name that does not exist."""


class ModelError(PrefixtuneError, ValueError):
    """The base model cannot take this prefix: it never calls the attention interface, or its heads do not fit."""


class CheckpointError(PrefixtuneError, ValueError):
    """A file on disk is missing, corrupt, truncated, or belongs to another base model."""


class DataError(PrefixtuneError, ValueError):
    """A data file is empty, malformed, or lacks a column."""


class NoRoom(DataError):
    """A text is too long for the positions that a prefix leaves: it may fit beside a shorter one."""


class Unsuited(ConfigError):
    """A setting that what is trained cannot take; another method can."""


def near_miss(given: object, options: Iterable[str]) -> str:
    """`; did you mean 'adaptive'?` when one of `options` is close to `given`, else the list of options."""
    options = list(options)
    close = difflib.get_close_matches(str(given), options, n=1)
    if close:
        return f"; did you mean {close[0]!r}? (known: {', '.join(options)})"
    return f"; known: {', '.join(options) or 'none'}"


def first_line(error: BaseException) -> str:
    """What an error of another library says first; its class, where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_characters(text: str, told: str) -> None:
    """Raise ConfigError for half a character, which an argument that is not UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{told} {text!a} is not UTF-8 text; expected whole characters") from error
