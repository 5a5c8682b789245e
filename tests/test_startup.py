"""The command line answers at once because it loads nothing heavy: a law on what is imported, not a stopwatch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "sklearn", "matplotlib", "pandas", "numpy"}
# The names that outside programs are written against.
PUBLIC = {
    "PrefixTuning", "PTuningV2", "AdaptivePrefix", "Cartridge", "ContentPrefix", "LinearPrefix", "ZeroInitPrefix",
    "attach", "detach", "prefixes", "using", "save", "load", "gates", "to_peft", "from_peft",
}  # fmt: skip


def loaded_after(code: str) -> tuple[set[str], str]:
    """Top-level modules in a fresh interpreter after `code`, and what it printed."""
    end = "import sys, json; print('\\n@' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    script = f"try:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n{end}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed, _, names = done.stdout.rpartition("\n@")
    return set(json.loads(names)), printed


def run_cli(*argv: str) -> str:
    return f"import sys; sys.argv = {['prefixtune', *argv]!r}; from prefixtune.cli import main; main()"


def test_import_loads_nothing_heavy() -> None:
    loaded, _ = loaded_after("import prefixtune")
    assert "prefixtune" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_command_line_answers_without_loading_anything_heavy(flag: str) -> None:
    loaded, printed = loaded_after(run_cli(flag))
    assert printed.strip()
    assert loaded.isdisjoint(HEAVY)


def test_help_names_every_command() -> None:
    _, printed = loaded_after(run_cli("--help"))
    for command in ("train", "evaluate", "generate", "probe", "inspect", "export", "demo", "reproduce"):
        assert command in printed


def test_the_public_names_are_there() -> None:
    import prefixtune

    assert set(prefixtune.__all__) >= PUBLIC
    assert set(prefixtune.__all__) <= set(dir(prefixtune))


def test_every_public_function_and_class_is_documented() -> None:
    import prefixtune

    def undocumented(thing: Any) -> bool:
        text = thing.__doc__ or ""  # a dataclass without a docstring gets its own signature as one
        return callable(thing) and (not text.strip() or text.startswith(f"{thing.__name__}("))

    assert [name for name in prefixtune.__all__ if undocumented(getattr(prefixtune, name))] == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import prefixtune

    with pytest.raises(AttributeError, match="no_such_name"):
        prefixtune.no_such_name  # noqa: B018
