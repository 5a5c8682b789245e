"""What is installed is what was declared, pinned and tested."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import prefixtune

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "prefixtune"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def distribution(requirement: str) -> str:
    """`scikit_learn[x]>=1` -> `scikit-learn`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {distribution(line): line.partition("==")[2] for line in lines}


def declared() -> set[str]:
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    return {distribution(requirement) for requirement in PROJECT["dependencies"] + extras} - {"prefixtune"}


ELSEWHERE = {ROOT / "benchmarks" / "adapters_worker.py"}
"""Files that run in an environment of their own, which they name."""


def third_party_imports() -> set[str]:
    names = set()
    files = {path for folder in ("src", "tests", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    files -= ELSEWHERE
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"prefixtune"} - {path.stem for path in files}


def test_every_import_is_of_a_declared_dependency() -> None:
    installed = packages_distributions()
    undeclared = {
        name for name in third_party_imports() if not {distribution(d) for d in installed.get(name, [])} & declared()
    }
    assert undeclared == set()


def test_the_version_is_written_once_for_each_reader() -> None:
    assert PROJECT["version"] == prefixtune.__version__


def test_every_declared_dependency_is_pinned_to_one_version() -> None:
    assert declared() - set(pins()) == set()
    assert [name for name, version in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []


def test_the_oldest_transformers_of_ci_is_the_oldest_that_is_declared() -> None:
    (requirement,) = [r for r in PROJECT["dependencies"] if distribution(r) == "transformers"]
    lowest = requirement.partition(">=")[2].partition(",")[0]
    assert f"\ntransformers=={lowest}." in (ROOT / ".ci" / "oldest.txt").read_text()


def test_every_data_file_of_the_package_is_shipped() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["prefixtune"]
    files = [path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    data = [path.relative_to(SOURCE).as_posix() for path in files]
    assert "py.typed" in data
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []
