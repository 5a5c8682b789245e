"""Where results go: one section a script in `RESULTS.md`, each with the machine and the commit it was measured on."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
TITLE = "# Results\n\nWritten by the scripts of this folder; each section names its command. Do not edit by hand.\n"
PACKAGES = ("torch", "transformers", "peft")


def machine() -> str:
    """Processor, cores, versions, commit, date and load, in one paragraph."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
        f"commit {_commit()}; {now}; load average at the end {load()}."
    )


def load() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, and whether files of the package or of this folder differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py").strip()
    return git("rev-parse", "--short", "HEAD").strip() + (" with changes on top" if changed else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def versus(times: Sequence[Mapping[str, float]], name: str, others: Iterable[str], digits: int = 2) -> list[str]:
    """The medians over rounds of what `name` took, over what each of `others` took in the same round."""
    return [f"{statistics.median(taken[name] / taken[other] for taken in times):.{digits}f}" for other in others]


def finish(
    section: str, body: str, parser: argparse.ArgumentParser, given: argparse.Namespace, free: Iterable[str] = ()
) -> None:
    """Write the section where it was measured as its command says; else print it, so that no part replaces the whole.

    `free` are the options that may differ: where the data are.
    """
    if is_whole(parser, given, free):
        write(section, body)
    else:
        print(f"\n## {section}\n\n{body}\n{RESULTS.name} is as it was")


def is_whole(parser: argparse.ArgumentParser, given: argparse.Namespace, free: Iterable[str] = ()) -> bool:
    """Whether every option has its default, but for those that are `free`."""
    fixed = {key: value for key, value in vars(given).items() if key not in ("adapters", *free)}
    return all(value == parser.get_default(key) for key, value in fixed.items())


def write(section: str, body: str) -> None:
    """Put `body` under the heading `section` of `RESULTS.md`, in place of what stood there."""
    text = RESULTS.read_text() if RESULTS.exists() else TITLE
    block = f"## {section}\n\n{body.strip()}\n"
    found = re.search(rf"^## {re.escape(section)}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found:
        text = text[: found.start()] + block + ("\n" if text[found.end() :] else "") + text[found.end() :]
    else:
        text = text.rstrip() + "\n\n" + block
    half = RESULTS.with_suffix(".part")
    half.write_text(text)
    os.replace(half, RESULTS)
    print(f"\n## {section}\n\n{body}\nwritten to {RESULTS.relative_to(HERE.parent)}")
