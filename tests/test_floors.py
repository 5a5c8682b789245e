"""The law of the house: imports go down only. Read from the syntax trees, so lazy imports in functions count too."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "prefixtune"
CODE = sorted(path for folder in ("src", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A module may import from lower floors, and from its own where no circle comes of it. The package itself is the roof:
# it only hands names on, so a name taken from it counts as an import from the module that the name lives in.
FLOORS = {
    "errors": 0,
    "finding": 0,
    "kinds": 0,
    "flash": 0,
    "trials": 0,
    "gating": 0,
    "rotary": 0,
    "kernel": 0,
    "products": 0,
    "attention": 0,
    "separate": 0,
    "packing": 0,
    "tiny_input": 0,
    "geometry": 0,
    "identity": 0,
    "prefix": 1,
    "heads": 0,
    "methods": 2,
    "initialisation": 2,
    "architectures": 2,
    "positions": 1,
    "starts": 1,
    "seam": 2,
    "seat": 2,
    "bank": 2,
    "seating": 3,
    "attachment": 3,
    "layout": 3,
    "checkpoint": 3,
    "peft_format": 3,
    "metrics": 3,
    "tasks": 3,
    "corpora": 4,
    "training": 4,
    "baselines": 4,
    "evaluation": 4,
    "probe": 4,
    "reproduce": 5,
    "demo": 6,
    "cli": 6,
    "__main__": 6,
}
ROOF = 7


def modules(source: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; the package itself is the empty name."""
    return {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
        for path in sorted(source.rglob("*.py"))
    }


def handed_on(roof: Path) -> dict[str, str]:
    """Public name -> the dotted name it has at home; a constant of the package itself has no home and maps to ''."""
    homes = {}
    for node in ast.walk(ast.parse(roof.read_text(), str(roof))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("prefixtune."):
            homes.update({alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            homes.update({target.id: "" for target in node.targets if isinstance(target, ast.Name)})
    return homes


def named(tree: ast.Module, package: str) -> set[str]:
    """Every dotted name that a module takes, from the package's own name on: imported, or an attribute of `pt`."""
    dotted: set[str] = set()
    aliases: set[str] = set()
    above = ["prefixtune", *package.split(".")] if package else ["prefixtune"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "prefixtune"}
            dotted |= {alias.name for alias in node.names if alias.name != "prefixtune"}
        elif isinstance(node, ast.ImportFrom):
            base = [*above[: len(above) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            dotted |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            dotted |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            dotted.add(f"prefixtune.{node.attr}")
    return {name for name in dotted if name.partition(".")[0] == "prefixtune"}


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that `path` takes something from."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    homes = handed_on(known[""])
    found = set()
    for target in named(ast.parse(path.read_text(), str(path)), package):
        inner = target.partition(".")[2]
        if inner not in known and inner in homes:
            inner = homes[inner].partition(".")[2]
            if not inner:
                continue
        while inner and inner not in known:  # `from prefixtune.errors import ConfigError` names the module `errors`
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found - {name}


def import_graph(source: Path) -> dict[str, set[str]]:
    known = modules(source)
    return {name: imports(name, path, known) for name, path in known.items()}


def floor(name: str) -> int:
    return FLOORS[name.partition(".")[0]] if name else ROOF


def upward(source: Path) -> list[str]:
    """`a imports b` for every import that goes up."""
    return [
        f"{name or 'prefixtune'} (floor {floor(name)}) imports {target or 'prefixtune'} (floor {floor(target)})"
        for name, targets in import_graph(source).items()
        for target in sorted(targets)
        if floor(target) > floor(name)
    ]


def circle(source: Path) -> list[str]:
    try:
        TopologicalSorter(import_graph(source)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def forbidden(path: Path) -> list[str]:
    """Calls and imports that the house does without, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        what = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            what = "hasattr: give the class the attribute, or ask for the type"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            what = "bare except: name the error that is expected"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            what = f"{ast.unparse(node)} pickles: use safetensors"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            roots = names if isinstance(node, ast.Import) else [node.module or ""]
            if {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & {n.partition(".")[0] for n in roots}:
                what = "pickle: use safetensors or JSON"
            elif roots == ["torch"] and {"load", "save"} & set(names):
                what = "torch.load and torch.save pickle: use safetensors"
        if what:
            found.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {what}")
    return found


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_every_module_stands_on_a_floor() -> None:
    unknown = sorted({name.partition(".")[0] for name in modules(SOURCE)} - {""} - set(FLOORS))
    assert not unknown, f"no floor for {', '.join(unknown)}: add a line to FLOORS in {Path(__file__).name}"


def test_imports_go_down_only() -> None:
    assert upward(SOURCE) == []


def test_no_imports_in_a_circle() -> None:
    assert circle(SOURCE) == []


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_code_does_without_the_forbidden(path: Path) -> None:
    assert forbidden(path) == []


@pytest.mark.parametrize("path", CODE + TESTS, ids=name_of)
def test_a_file_can_be_read_in_one_sitting_and_is_named_for_what_it_does(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (400 if path in CODE else 600)  # the contract is one file on purpose
    assert not {"util", "utils", "manager", "helper", "helpers", "common", "misc"} & set(path.stem.split("_"))


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("from prefixtune.attachment import attach", "errors (floor 0) imports attachment (floor 3)"),
        ("def f():\n    import prefixtune.cli", "errors (floor 0) imports cli (floor 6)"),
        ("from prefixtune import attachment", "errors (floor 0) imports attachment (floor 3)"),
        ("from . import attachment", "errors (floor 0) imports attachment (floor 3)"),
        ("from .methods.adaptive import AdaptivePrefix", "errors (floor 0) imports methods.adaptive (floor 2)"),
        ("import importlib\nimportlib.import_module('prefixtune.cli')", "errors (floor 0) imports cli (floor 6)"),
        ("import prefixtune as pt\npt.AdaptivePrefix()", "errors (floor 0) imports methods.adaptive (floor 2)"),
        ("from prefixtune import AdaptivePrefix", "errors (floor 0) imports methods.adaptive (floor 2)"),
        ("from prefixtune import no_one_knows", "errors (floor 0) imports prefixtune (floor 7)"),
    ],
)
def test_an_upward_import_is_found_however_it_is_written(tmp_path: Path, statement: str, complaint: str) -> None:
    roof = "def f():\n    from prefixtune.methods.adaptive import AdaptivePrefix"
    empty = dict.fromkeys(["attachment.py", "cli.py", "methods/__init__.py", "methods/adaptive.py"], "")
    assert upward(write(tmp_path, {**empty, "__init__.py": roof, "errors.py": statement})) == [complaint]


def test_downward_and_relative_imports_inside_a_package_are_allowed(tmp_path: Path) -> None:
    files = {
        "__init__.py": "__version__ = '1'\ndef __getattr__(name):\n    from prefixtune.attachment import attach",
        "errors.py": "",
        "attachment.py": "from prefixtune import __version__, errors\nfrom .methods import adaptive",
        "methods/__init__.py": "",
        "methods/adaptive.py": "from ..errors import ConfigError\nfrom .zero import ZeroInitPrefix",
        "methods/zero.py": "",
    }
    assert upward(write(tmp_path, files)) == []
    assert circle(tmp_path) == []


def test_a_circle_on_one_floor_is_found_through_a_lazy_import(tmp_path: Path) -> None:
    lazy = "def f():\n    from prefixtune.attachment import attach"
    files = {"__init__.py": "", "attachment.py": "from prefixtune.checkpoint import load", "checkpoint.py": lazy}
    write(tmp_path, files)
    assert upward(tmp_path) == []
    assert set(circle(tmp_path)) == {"attachment", "checkpoint"}


@pytest.mark.parametrize(
    "text",
    [
        "hasattr(x, 'y')",
        "try:\n    pass\nexcept:\n    pass",
        "import pickle",
        "def f():\n    from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
    ],
)
def test_the_forbidden_is_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert len(forbidden(path)) == 1
