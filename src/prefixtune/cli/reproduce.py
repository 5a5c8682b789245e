"""`prefixtune reproduce`: the papers' experiments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts

from prefixtune.cli import report
from prefixtune.cli.options import parameters_of, with_parameters
from prefixtune.errors import ConfigError
from prefixtune.reproduce.options import Options

if TYPE_CHECKING:
    from prefixtune.reproduce.experiment import Experiment

_HELP = """Run an experiment of the Prefix-Tuning or APT paper, or list them all (LIST).

The recipe, seeds and decoding are the paper's unless an option says otherwise;
the table says what was changed. Settings are chosen on development data, with
the same number of trials for every row; test data are scored once.

OUTPUT gets table.md and table.json (means and deviations beside the paper's own
figures), plots, and every run in a folder. A killed one goes on with --resume.

  prefixtune reproduce prefix_tuning --model gpt2-medium --data DIR
  prefixtune reproduce apt --model bert-large-cased --data conll04=DIR,rte=DIR
  prefixtune reproduce apt --model M --data DIR --corpora rte --lr 5e-3,1e-2
  prefixtune reproduce prefix_length --model M --data DIR --lengths 1,5,10

Args:
    name: Name of an experiment, or LIST.
    output: A new or empty folder, or the one of the experiment to resume. Default: reproduce-NAME.
    resume: Go on with the experiment that OUTPUT holds; finished runs are kept.
    rescore: Like --resume, and score finished runs' answers again, e.g. with --bertscore or a metric installed since.
"""
_GROUP = cyclopts.Group("Experiment", sort_key=1)
LIST = "LIST"


def build(tokens: Sequence[str]) -> cyclopts.App:
    """The command; `--model` may be missing where the experiments are only shown, and is asked for by `run`."""
    parameters = [
        _optional(parameter) if parameter.name == "model" else parameter for parameter in parameters_of(Options, _GROUP)
    ]

    def reproduce(
        name: str = LIST, /, *, output: Path | None = None, resume: bool = False, rescore: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        if name.upper() == LIST:
            report.show_table("The experiments", *catalogue())
            return
        asked = Options(**{"model": "", **options})
        run(name, asked, output or Path(f"reproduce-{name}"), tokens, resume=resume, rescore=rescore)

    reproduce.__doc__ = _HELP
    app = cyclopts.App(name="reproduce", help_format="plaintext")
    app.default(with_parameters(reproduce, parameters))
    return app


def _optional(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation: Any = Annotated[parameter.annotation, cyclopts.Parameter(show_default=False)]
    return parameter.replace(default="", annotation=annotation)


def catalogue() -> tuple[list[str], list[list[str]]]:
    """The columns and lines of the list of experiments."""
    from prefixtune import reproduce
    from prefixtune.reproduce.experiment import Base, Cell

    base = Base("bert", False, lambda text: 1)
    lines = []
    for name in reproduce.names():
        found = reproduce.find(name)
        cells = [Cell(corpus, size, base) for corpus in found.corpora or (None,) for size in found.sizes or (None,)]
        runs = sum(found.runs(arm) for cell in cells for arm in found.arms(cell))
        lines.append([name, found.paper, found.shows, _corpora(found), str(runs)])
    return ["name", "paper", "what it shows", "corpora", "runs"], lines


def _corpora(experiment: Experiment) -> str:
    told = ", ".join(experiment.corpora) or "none"
    return f"{told}; if named: {', '.join(experiment.more)}" if experiment.more else told


def run(name: str, options: Options, output: Path, tokens: Sequence[str], *, resume: bool, rescore: bool) -> None:
    """Run it, show the tables and write everything."""
    from prefixtune import reproduce

    reproduce.find(name)  # an unknown name is told before torch is loaded
    if not options.model:
        raise ConfigError("no model given; name one with --model")
    from prefixtune.reproduce import picture, runner, table
    from prefixtune.reproduce.caption import caption
    from prefixtune.training import results

    command = ["prefixtune", "reproduce", *(token for token in tokens if token != "--rescore")]  # to run it anew
    found = runner.run(name, options, output, resume=resume or rescore, command=command, rescore=rescore)
    results.write_text(output / table.MARKDOWN, table.markdown(found))
    results.write_json(output / table.JSON, table.as_json(found))
    picture.draw(found, output)
    for grid in table.grids(found):
        report.show_table(grid.title, grid.columns, grid.lines)
    print("\n".join(caption(found)), file=sys.stderr)
    print(f"tables, plots and runs: {output}", file=sys.stderr)
