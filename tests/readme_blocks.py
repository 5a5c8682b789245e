"""Runs the fenced blocks of a Markdown file in their order, so that what a reader copies is known to work.

A block runs by its language: `python` in one namespace for the whole file; `console`, `bash`, `sh` line by line, where
every command must be `prefixtune ...` (in `console`, the lines with `$ `; the others are its output). Any other block,
or one that cannot run here, carries a comment on the line above it, which a reader of the page does not see:

    <!-- test: skip because REASON -->      not run
    <!-- test: file NAME -->                written to NAME, for the blocks after it
    <!-- test: tree -->                     a tree of paths, each of which must exist

A block that neither runs nor says why is an error.
"""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<fence>```+|~~~+)\s*(?P<language>[\w-]*)")
DIRECTIVE = re.compile(r"^<!--\s*test:\s*(?P<text>.*?)\s*-->$")
SHELLS = ("console", "bash", "sh")


class BlockError(AssertionError):
    """A block does not run, or does not say why it need not; the message starts with its line."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of the opening fence, from 1
    directive: str  # "" where there is none


def blocks(markdown: str) -> Iterator[Block]:
    lines = markdown.splitlines()
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        if not opening:
            at += 1
            continue
        above = next((line for line in reversed(lines[:at]) if line.strip()), "")
        directive = DIRECTIVE.match(above.strip())
        end = next((i for i in range(at + 1, len(lines)) if lines[i].rstrip() == opening["fence"]), None)
        if end is None:
            raise BlockError(f"line {at + 1}: the block is not closed")
        text = "\n".join(lines[at + 1 : end]) + "\n"
        yield Block(opening["language"], text, at + 1, directive["text"] if directive else "")
        at = end + 1


def commands(block: Block) -> Iterator[list[str]]:
    """The argument lists of a shell block; a command that is not prefixtune's is an error."""
    text = block.text
    if block.language == "console":
        prompted = text.replace("\\\n> ", " ").replace("\\\n", " ").splitlines()
        lines = [line.removeprefix("$ ") for line in prompted if line.startswith("$ ")]
    else:
        lines = text.replace("\\\n", " ").splitlines()
    found = [argv for line in lines if (argv := shlex.split(line, comments=True))]
    if not found:
        raise BlockError(f"line {block.line}: no command in it")
    for argv in found:
        if argv[0] != "prefixtune":
            raise BlockError(f"line {block.line}: {argv[0]!r} is not run here: <!-- test: skip because ... -->")
        yield argv[1:]


def run(markdown: str, command_line: Callable[[list[str]], object], folder: Path, name: str = "README.md") -> int:
    """Runs every block in `folder`, the current directory, and returns how many ran.

    Raises:
        BlockError: a block failed, or is neither runnable nor marked.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for block in blocks(markdown):
        kind, _, argument = block.directive.partition(" ")
        if kind == "skip":
            if not re.fullmatch(r"because \S.*", argument):
                raise BlockError(f"line {block.line}: a skip needs its reason: <!-- test: skip because ... -->")
        elif kind == "file":
            (folder / argument).write_text(block.text)
        elif kind == "tree":
            pass  # held by `missing_paths`
        elif not kind and block.language == "python":
            run_python(block, namespace, name)
            ran += 1
        elif not kind and block.language in SHELLS:
            for argv in commands(block):
                run_command(block, argv, command_line)
            ran += 1
        elif kind:
            raise BlockError(f"line {block.line}: unknown comment <!-- test: {block.directive} -->")
        else:
            language = block.language or "no language"
            raise BlockError(f"line {block.line}: a block of {language} neither runs nor says why not")
    return ran


def run_python(block: Block, namespace: dict[str, object], name: str) -> None:
    source = "\n" * block.line + block.text  # so that tracebacks name the line of the page
    try:
        exec(compile(source, name, "exec"), namespace)
    except Exception as error:
        where = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        raise BlockError(f"line {where[-1] if where else block.line}: {type(error).__name__}: {error}") from error


def run_command(block: Block, argv: list[str], command_line: Callable[[list[str]], object]) -> None:
    """A command must return, or leave with exit code 0."""
    where = f"line {block.line}: prefixtune {shlex.join(argv)}"
    try:
        code = command_line(argv)
    except SystemExit as stop:
        code = stop.code
    except Exception as error:
        raise BlockError(f"{where}: {type(error).__name__}: {error}") from error
    if code not in (None, 0):
        raise BlockError(f"{where} left with {code!r}")


def tree_paths(text: str) -> list[str]:
    """The paths of a captioned tree, one a line, nested by indentation; captions follow two spaces or a `#`."""
    found: list[str] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        entry = re.match(r"^(?P<indent>[\s│├└─|`-]*)(?P<path>[\w.][\w./-]*)", line)
        if not entry:
            continue
        while above and above[-1][0] >= len(entry["indent"]):
            above.pop()
        path = (above[-1][1] if above else "") + entry["path"]
        if entry["path"].endswith("/"):
            above.append((len(entry["indent"]), path))
        found.append(path)
    return found


def missing_paths(markdown: str, root: Path) -> list[str]:
    """The paths of the page's trees that are not below `root`.

    Raises:
        BlockError: the page has no tree.
    """
    trees = [block for block in blocks(markdown) if block.directive == "tree"]
    if not trees:
        raise BlockError("no block is marked <!-- test: tree -->")
    return [path for block in trees for path in tree_paths(block.text) if not (root / path).exists()]
