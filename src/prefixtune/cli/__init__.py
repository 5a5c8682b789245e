"""The command line. Bad input is one clear line on standard error and exit code 2; heavy libraries load when needed."""

from __future__ import annotations

import errno
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Callable, Sequence

import cyclopts

from prefixtune.cli import commands, probe, reproduce, train
from prefixtune.errors import PrefixtuneError, check_characters

BAD_INPUT = 2
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
INTERRUPTED = 130
_COMMANDS: dict[str, Callable[..., object]] = {
    "evaluate": commands.evaluate,
    "generate": commands.generate,
    "probe": probe.probe,
    "inspect": commands.inspect,
    "export": commands.export,
    "demo": commands.demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0, or 2 for bad input)."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        for token in tokens:
            check_characters(token, "the argument")
        _app(tokens)(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (PrefixtuneError, cyclopts.CycloptsError) as error:
        print(f"prefixtune: {' '.join(str(error).split())}{_dash(error, tokens)}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        where = "" if error.filename is None else f" {error.filename}:"
        print(
            f"prefixtune:{where} {error.strerror}; free some space, or choose another folder (a run that was "
            "begun continues with --resume)",
            file=sys.stderr,
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("prefixtune: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _dash(error: Exception, tokens: Sequence[str]) -> str:
    """What to do where an option's value was taken for an option."""
    option = error.keyword if isinstance(error, cyclopts.MissingArgumentError) else None
    given = tokens[tokens.index(option) + 1 :][:1] if option in tokens else []
    if not given or re.fullmatch(r"--[a-z][a-z0-9-]*(=.*)?", given[0]):
        return ""
    return f" A value that begins with a dash is given as {shlex.quote(f'{option}={given[0]}')}"


def _app(tokens: Sequence[str]) -> cyclopts.App:
    app = cyclopts.App(
        name="prefixtune",
        help="Adapt a frozen transformer with a prefix: train it, evaluate it, generate with it.",
        version=lambda: importlib.metadata.version("prefixtune"),
        help_format="plaintext",
        default_parameter=cyclopts.Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,  # it would end the process without a word
    )
    app.command(train.build(tokens[1:] if tokens[:1] == ["train"] else []), name="train")
    app.command(reproduce.build(tokens[1:] if tokens[:1] == ["reproduce"] else []), name="reproduce")
    for name, command in _COMMANDS.items():
        app.command(command, name=name)
    return app
