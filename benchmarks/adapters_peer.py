"""The `adapters` library as a peer: it works in an interpreter of its own (`adapters_worker.py`), asked from here."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "adapters prefix"
BARE = "bare model, adapters' transformers"
WORKER = Path(__file__).with_name("adapters_worker.py")


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--adapters PYTHON`: without it there are no rows of the library."""
    parser.add_argument("--adapters", metavar="PYTHON", help="an interpreter that has the `adapters` library")


class Worker:
    """That interpreter, at one job at a time."""

    def __init__(self, python: str, threads: int = 1, env: dict[str, str] | None = None) -> None:
        self.python = python
        command = [python, "-W", "ignore", str(WORKER), str(threads)]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=os.environ | (env or {}),
        )  # fmt: skip

    def begin(self, job: str, **given: Any) -> Worker:
        """Make ready for a job, in place of the last one; what may be given is in `adapters_worker.Job`."""
        self.ask({"job": {"name": job, **given}})
        return self

    def ask(self, question: Any = None) -> Any:
        """Have the job done once more: what it answers."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.process.args} ended:\n{self.errors.read()[-3000:]}")
        return json.loads(answer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the interpreter."""
        if self.process.poll() is None:
            self.process.communicate()
        self.errors.close()


def bare_and_prefixed(python: str | None, opened: ExitStack) -> dict[str, Worker]:
    """An interpreter for each, in the order of how many prefixes they have; none without a `python`."""
    return {name: opened.enter_context(Worker(python)) for name in (BARE, NAME)} if python else {}


def versions(python: str | None) -> str:
    """Whose rows these are: a paragraph, or nothing."""
    return f"{_versions(_checked(python))}\n\n" if python else ""


def _checked(python: str) -> Any:
    with Worker(python) as worker:
        return worker.begin("check").ask()


def _versions(checked: Any) -> str:
    of = checked["versions"]
    with_what = f"transformers {of['transformers']} and torch {of['torch']}"
    return f"adapters {of['adapters']} works in an interpreter of its own, with {with_what}."


def remark(python: str | None) -> str:
    """What its rows measure, with its versions and the differences found now: a paragraph, or nothing."""
    if not python:
        return ""
    checked = _checked(python)
    off = checked["differences"]
    return (
        f"{_versions(checked)} As it comes, its prefix in a Llama is not one: sdpa hides each token's last keys "
        f"(logits of a small model off by {off['unpadded']:.2f}), where something is padded no row sees the prefix "
        f"(off from the bare model by {off['padded to bare']:.0e}), and the cache is not read (off by "
        f"{off['cached']:.2f}). It is measured with that set right, as `adapters_worker.py` says: a mask of numbers "
        f"for sdpa, and the cache under the name that its attention knows (off by {off['mended']:.0e}, and by "
        f"{off['mended, cached']:.0e} with a cache). With BERT nothing had to be set right.\n\n"
    )
