"""`prefixtune evaluate`, `generate`, `inspect`, `export` and `demo`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prefixtune.cli import report
from prefixtune.cli.options import Whole, WholeOrNone, column_names
from prefixtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from prefixtune.tasks import Table, Task

_BARE = "(base model)"


@dataclass(kw_only=True)
class DecodingOptions:
    """How text is generated; what is not given stays as training evaluated with it."""

    beams: WholeOrNone = None
    """Beams of the search; 1 is greedy."""

    max_new_tokens: WholeOrNone = None
    """The most tokens generated."""

    sample: bool | None = None
    """Draw each token instead of taking the likeliest."""

    temperature: float | None = None
    """Divides the logits before sampling."""

    top_p: float | None = None
    """Sample from the likeliest tokens that together have this probability."""

    length_penalty: float | None = None
    """Exponent of the length that a beam's score is divided by."""

    seed: WholeOrNone = None
    """Seed of the sampling."""

    def overrides(self) -> dict[str, Any]:
        """As the fields of `Decoding`; what was not given is None."""
        if self.sampling() and not self.sample:
            raise ConfigError("--temperature, --top-p and --seed act on sampling; add --sample")
        values = dict(vars(self))
        return {"decode_seed": values.pop("seed"), **values}

    def sampling(self) -> bool:
        """Whether an option was given that only sampling reads."""
        return any(value is not None for value in (self.temperature, self.top_p, self.seed))


_Flat = Annotated[DecodingOptions | None, Parameter(name="*")]


def evaluate(
    *, prefix: str, data: str, model: str | None = None, split: str = "test", subset: str | None = None,
    columns: str | None = None, data_format: str | None = None, batch_size: Whole = 32, dtype: str = "auto",
    output: Path | None = None, predictions: Path | None = None, report: Path | None = None, decoding: _Flat = None,
) -> None:  # fmt: skip
    """Score a prefix on data; the metrics are printed as JSON.

    Args:
        prefix: Folder (or hub id) of the prefix.
        data: File or hub data set with the columns of the prefix's task, or CORPUS=FOLDER, as reproduce reads it.
        model: The base model; default: the one the prefix names.
        split: Split of a hub data set; for a corpus: train, dev or the name of a test.
        subset: Configuration of a hub data set.
        columns: Renames of columns, as in source=mr,target=ref; default: those used in training.
        data_format: Format of the file when its extension does not say.
        batch_size: Examples per batch.
        dtype: Type of the base model's weights: auto (as in training), float32, bfloat16, float16.
        output: Also write the metrics to this file.
        predictions: JSONL file to write the model's answers to, one per row (text to text: one per source).
        report: HTML file to write: the scores, gates where there are any, curves, samples and configuration.
    """
    from prefixtune import evaluation
    from prefixtune.checkpoint import local_folder, read_config
    from prefixtune.cli.data import check_columns
    from prefixtune.cli.data import read as read_data
    from prefixtune.probe.report import Scored, of_run, read_record
    from prefixtune.training import curves, results

    files = {"--output": output, "--predictions": predictions, "--report": report}
    results.check_files(files, {"--data": [data], **results.files_of(model, [prefix])})
    folder = local_folder(prefix)
    read_config(folder)  # a broken one shows before data are fetched
    if report is not None:
        curves.check_library()
        read_record(folder)
    renames = column_names(columns)
    table = read_data(data, split=split, subset=subset, form=data_format, columns=renames)
    loaded = evaluation.load(model, {"default": prefix}, dtype=dtype)
    if renames is None:
        table = evaluation.trained_columns(loaded.metadata["default"], table)
    check_columns(table, data, loaded)
    overrides = (decoding or DecodingOptions()).overrides()
    _check_generates(loaded.tasks["default"], overrides)
    how = evaluation.trained_decoding(loaded.metadata["default"], **overrides)
    scores, answers = evaluation.evaluate(loaded, "default", table, batch_size=batch_size, decoding=how)
    print(json.dumps(scores, indent=2))
    facts = {"model": model or loaded.model.config._name_or_path, "prefix": prefix, "data": data}
    if output is not None:
        results.write_json(output, {**facts, **scores})
    if predictions is not None:
        results.write_text(predictions, results.jsonl(answers))
    if report is not None:
        scored = Scored(loaded, "default", folder, table, scores, answers, how, facts)
        results.write_text(report, of_run(scored, batch_size=batch_size))


def generate(
    *, model: str | None = None, prefix: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    prompt: str | None = None, input: str | None = None, output: Path | None = None, bare: bool = False,
    split: str | None = None, subset: str | None = None, columns: str | None = None, data_format: str | None = None,
    batch_size: Whole = 32, dtype: str = "auto", decoding: _Flat = None,
) -> None:  # fmt: skip
    """Generate with one prefix or several; several answer in one batch, side by side.

    Args:
        model: The base model; default: the one the first prefix names.
        prefix: Folder of a prefix, or NAME=FOLDER; may be repeated.
        prompt: One text to answer.
        input: File or hub data set of texts to answer (its column `source`), or CORPUS=FOLDER; answers are JSONL.
        output: File for the answers, instead of standard output.
        bare: Also answer without a prefix.
        split: Split of a hub data set; for a corpus: train, dev or the name of a test.
        subset: Configuration of a hub data set.
        columns: Renames of columns, as in source=mr.
        data_format: Format of the file when its extension does not say.
        batch_size: Rows per batch.
        dtype: Type of the base model's weights: auto (as in training), float32, bfloat16, float16.
    """
    from prefixtune import evaluation
    from prefixtune.checkpoint import local_folder, read_config
    from prefixtune.training import results

    folders = _named_folders(prefix or [])
    inputs = {"--input": [] if input is None else [input]}
    results.check_files({"--output": output}, {**inputs, **results.files_of(model, folders.values())})
    if (prompt is None) == (input is None):
        raise ConfigError("give one text with --prompt, or a file of texts with --input")
    for folder in folders.values():
        read_config(local_folder(folder))  # a broken one shows before data are fetched
    table = _inputs(input, columns=columns, split=split, subset=subset, data_format=data_format)
    overrides = (decoding or DecodingOptions()).overrides()
    loaded = evaluation.load(model, folders, dtype=dtype)
    stored = list(loaded.metadata.values())
    if table is not None and columns is None and stored:
        table = evaluation.trained_columns(stored[0], table)
    prompts = [str(prompt)] if table is None else _sources(table)
    names: list[str | None] = [*folders, *([None] if bare or not folders else [])]
    # The bare model answers as the first prefix does, for comparison.
    bare_facts = next(iter(stored), {})
    known = [bare_facts if name is None else loaded.metadata[name] for name in names]
    how = {name: evaluation.trained_decoding(facts, **overrides) for name, facts in zip(names, known, strict=True)}
    found = evaluation.generate(loaded, prompts, names, how, batch_size)
    answers = [{_BARE if name is None else name: text for name, text in row.items()} for row in found]
    lines = results.jsonl({"source": source, **row} for source, row in zip(prompts, answers, strict=True))
    if output is not None:
        results.write_text(output, lines)
    elif input is not None:
        sys.stdout.write(lines)
    else:
        report.show_answers(prompts, answers, [_BARE if name is None else name for name in names])


def inspect(directory: str, /) -> None:
    """Say what a prefix folder holds: method, lengths, sites, size, base model, task, metrics. Loads no base model.

    Args:
        directory: Folder of the prefix.
    """
    from prefixtune.cli.inspection import describe

    report.show_facts(directory, describe(directory))


def export(
    directory: str, /, *, to: Literal["peft"], output: Path, model: str | None = None, dtype: str = "auto"
) -> None:
    """Write a prefix in another library's format.

    Args:
        directory: Folder of the prefix.
        to: peft: a PREFIX_TUNING checkpoint that PEFT loads.
        output: Folder to write.
        model: The base model; default: the one the prefix names.
        dtype: Type of the base model's weights: auto (as in training), float32, bfloat16, float16.
    """
    import prefixtune as pt
    from prefixtune import evaluation
    from prefixtune.training import results

    results.check_new_folder(output)
    loaded = evaluation.load(model, {"default": directory}, dtype=dtype)
    pt.to_peft(loaded.model, output, name="default")
    print(f"{to} checkpoint: {output}", file=sys.stderr)


def demo() -> None:
    """Train and compare prefixes on small data that come with the package; offline, about two minutes."""
    from prefixtune.demo import run

    run()


def _check_generates(task: Task | None, overrides: dict[str, Any]) -> None:
    """Raise ConfigError where the decoding is changed and no text is generated."""
    from prefixtune.tasks.task import HeadTask

    given = [name for name, value in overrides.items() if value is not None]
    if given and isinstance(task, HeadTask):
        option = given[0].removeprefix("decode_").replace("_", "-")
        raise ConfigError(f"--{option}: this prefix is one of {task.kind}, which generates no text; leave it out")


def _named_folders(given: list[str]) -> dict[str, str]:
    """`NAME=FOLDER` or `FOLDER` (named by its last part)."""
    folders: dict[str, str] = {}
    for item in given:
        name, equals, folder = item.partition("=")
        if not equals:
            name, folder = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(item).resolve().name).strip("-_"), item
        if not name or not folder:
            raise ConfigError(f"--prefix {item!r}: expected FOLDER or NAME=FOLDER")
        if name in folders:
            raise ConfigError(f"--prefix: two prefixes are called {name!r}; name them with NAME=FOLDER")
        folders[name] = folder
    return folders


def _inputs(given: str | None, **how: str | None) -> Table | None:
    """The rows to answer. Raises ConfigError for what has no use: a text, or a file of texts, has no columns."""
    from prefixtune import tasks
    from prefixtune.cli.data import read as read_data

    if given is None:
        _refuse_given(how, "--prompt is one text")
        return None
    path = Path(given)
    if path.suffix == ".txt" and path.is_file() and how["data_format"] is None:
        _refuse_given(how, f"{given} is plain texts, one a line")
        lines = enumerate(tasks.readers.read_text(path).split("\n"), start=1)
        kept = [(number, line) for number, line in lines if line.strip()]
        if not kept:
            raise DataError(f"{given} is empty: expected at least one line of text")
        return tasks.Table(given, [{"source": line} for _, line in kept], [number for number, _ in kept])
    return read_data(
        given, split=how["split"], subset=how["subset"], form=how["data_format"], columns=column_names(how["columns"])
    )


def _refuse_given(how: dict[str, str | None], what: str) -> None:
    for name, value in how.items():
        if value is not None:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: {what}; leave it out")


def _sources(table: Table) -> list[str]:
    """The texts to answer, as training reads them."""
    from prefixtune.tasks.text2text import one_text

    table.require(("source",))
    return [one_text(row["source"], table.where(index)) for index, row in enumerate(table.rows)]
