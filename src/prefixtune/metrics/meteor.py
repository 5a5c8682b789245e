"""METEOR, 0 to 1: METEOR 1.5 (Denkowski & Lavie 2014), a Java program with a paraphrase table, as the official scripts
of E2E and WebNLG run it. nltk's METEOR is the formula of 2005, whose numbers stand beside no published METEOR 1.5, and
so is no substitute where there is no Java.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefixtune.errors import ConfigError
from prefixtune.metrics.metric import TextMetric
from prefixtune.metrics.words import coco, webnlg, webnlg_references

JAR = "meteor-1.5.jar"
JAR_VARIABLE = "METEOR_JAR"
"""The environment variable that names METEOR's jar where pycocoevalcap, which carries it, is not installed."""


@dataclass(frozen=True)
class MeteorE2E(TextMetric):
    """METEOR 1.5 on COCO's words, as E2E's script runs it."""

    name: ClassVar[str] = "meteor_e2e"
    paper_factor: ClassVar[float] = 100.0

    def missing(self) -> str | None:
        return missing_java(self.name)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return meteor([" ".join(coco(a)) for a in answers], [[" ".join(coco(t)) for t in r] for r in references])


@dataclass(frozen=True)
class MeteorWebNLG(TextMetric):
    """METEOR 1.5 on WebNLG's words, three references, as its script of 2017 runs it."""

    name: ClassVar[str] = "meteor_webnlg"

    def missing(self) -> str | None:
        return missing_java(self.name)

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return meteor([" ".join(webnlg(answer)) for answer in answers], webnlg_references(references))


def missing_java(name: str) -> str | None:
    """Why METEOR 1.5 cannot be run; None when it can."""
    if shutil.which("java") is None:
        return f"{name} runs METEOR 1.5, which needs Java, and there is no `java` on the PATH: install a Java runtime"
    if (jar := meteor_jar()) is None:
        return (
            f"{name} runs METEOR 1.5, which is not installed: pip install 'prefixtune[reproduce]', or name its "
            f"{JAR} in the environment variable {JAR_VARIABLE}"
        )
    return None if jar.is_file() else f"{name}: {JAR_VARIABLE} names {jar}, which is no file; expected {JAR}"


def meteor_jar() -> Path | None:
    """Where METEOR's jar is: named by `METEOR_JAR`, or inside pycocoevalcap."""
    if (given := os.environ.get(JAR_VARIABLE)) is not None:
        return Path(given)
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "meteor" / JAR


def meteor(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of texts that are cut into words: English, its own parameters, its own normalisation of punctuation.

    Raises ConfigError when the program fails.
    """
    # First each text's statistics, then their sum: the score of a set is no mean over its texts.
    wanted = [" ||| ".join(["SCORE", *texts, answer]) for answer, texts in zip(answers, references, strict=True)]
    statistics = _run(wanted)
    if len(statistics) != len(answers):
        raise ConfigError(f"METEOR gave {len(statistics)} lines for {len(answers)} texts; run its jar to see why")
    return float(_run([" ||| ".join(["EVAL", *statistics])])[-1])


def _run(lines: Sequence[str]) -> list[str]:
    jar = meteor_jar()
    assert jar is not None
    command = ["java", "-Xmx2G", "-jar", str(jar.resolve()), "-", "-", "-stdio", "-l", "en", "-norm"]
    text = "".join(line + "\n" for line in lines)
    found = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", cwd=jar.resolve().parent)
    if found.returncode:
        raise ConfigError(f"METEOR failed ({found.returncode}): {' '.join(found.stderr.split())[:300]}")
    return found.stdout.splitlines()
