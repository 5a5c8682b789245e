"""`prefixtune train`: the flags are the fields of the run's configuration and of the chosen method."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

from prefixtune.cli import report
from prefixtune.cli.options import defaults_from, parameters_of, read_yaml, with_parameters
from prefixtune.errors import ConfigError
from prefixtune.training.config import RunConfig

_HELP = """Train a prefix. Every option is also a key of RUN.yaml; the command line overrides the file.

Methods: {methods}. Each has options of its own: prefixtune train --method adaptive --help

Args:
    run_file: YAML file of options.
    resume: Continue the run in OUTPUT, or start it if there is none; without RUN.yaml, use the settings recorded there.
"""
_RUN = cyclopts.Group("Run", sort_key=1)


def build(tokens: Sequence[str]) -> cyclopts.App:
    """The command for this very command line: which options there are depends on the method it names."""
    settings, source = _settings(tokens)
    name = _value(tokens, "--method") or settings.get("method")
    wants_help = any(token in ("--help", "-h") for token in tokens)
    parameters = parameters_of(RunConfig, _RUN)
    method = None
    if name is not None:
        from prefixtune import methods

        method = methods.find(str(name))
        parameters += parameters_of(method, cyclopts.Group(f"Prefix ({name})", sort_key=2))
    elif "--resume" in tokens and not wants_help:
        output = _value(tokens, "--output")
        raise ConfigError(f"--resume: --output {output or '(not given)'} holds no run; name its folder, or a --method")
    elif tokens and not wants_help:
        raise ConfigError(f"train: no method given; name one with --method: {', '.join(method_names())}")

    def train(run_file: Path | None = None, /, *, resume: bool = False, **options: Any) -> None:
        assert method is not None
        if run_file is not None and str(run_file) != source:
            raise ConfigError(f"the run file comes first: prefixtune train {run_file} --option ...")
        own = {field.name for field in dataclasses.fields(RunConfig)}
        config = RunConfig(**{key: value for key, value in options.items() if key in own})
        _train(config, method(**{key: value for key, value in options.items() if key not in own}), resume, tokens)

    train.__doc__ = _HELP.format(methods=", ".join(method_names()))
    app = cyclopts.App(name="train", help_format="plaintext", config=[defaults_from(settings, source)])
    app.default(with_parameters(train, parameters))
    return app


def method_names() -> list[str]:
    """Every method's name, read off the file names: the help needs them without importing torch."""
    folder = Path(__file__).parent.parent / "methods"
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def _train(config: RunConfig, method: Any, resume: bool, tokens: Sequence[str]) -> None:
    from prefixtune.training.run import train

    found = train(config, method, resume=resume, command=["prefixtune", "train", *tokens])
    report.show_run(config.output, found)
    print(f"prefix, metrics and configuration: {config.output}", file=sys.stderr)


def _settings(tokens: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The YAML file of this command line, if any; a resumed run without one takes its own recorded settings."""
    if tokens and not tokens[0].startswith("-"):
        return read_yaml(Path(tokens[0])), tokens[0]
    output = _value(tokens, "--output")
    if "--resume" in tokens and output and (recorded := Path(output) / "run.yaml").is_file():
        return {**read_yaml(recorded), "output": output}, str(recorded)
    return {}, ""


def _value(tokens: Sequence[str], flag: str) -> str | None:
    """What follows `flag`, either way of writing it; the last one counts."""
    found = None
    for position, token in enumerate(tokens):
        if token == flag and position + 1 < len(tokens):
            found = tokens[position + 1]
        elif token.startswith(f"{flag}="):
            found = token.partition("=")[2]
    return found
