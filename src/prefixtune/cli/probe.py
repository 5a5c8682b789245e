"""`prefixtune probe`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from prefixtune.cli import report
from prefixtune.cli.options import Whole, WholeOrNone, column_names


def probe(
    *, prefix: str, data: str, output: Path, model: str | None = None, by: Literal["label", "example"] | None = None,
    limit: WholeOrNone = None, budget: float = 1.0, split: str = "test", subset: str | None = None,
    columns: str | None = None, data_format: str | None = None, batch_size: Whole = 32, dtype: str = "auto",
) -> None:  # fmt: skip
    """Show where a task wants its prefix: the gates of a trained APT prefix over data, in a report and tables.

    Also derives a variable prefix from the gates; the command that trains it is the last line printed.

    Args:
        prefix: Folder (or hub id) of a prefix trained with --method adaptive.
        data: File or hub data set with the columns of the prefix's task, or CORPUS=FOLDER, as reproduce reads it.
        output: Folder to write: report.html, gates.png, layers.csv, positions.csv, gates.json, lengths.json.
        model: The base model; default: the one the prefix names.
        by: Keep apart: label (tagging: the entity type of each word) or example.
        limit: Read only the first rows of the data.
        budget: Positions of the variable prefix, as a multiple of those the prefix has in all layers together.
        split: Split of a hub data set; for a corpus: train, dev or the name of a test.
        subset: Configuration of a hub data set.
        columns: Renames of columns, as in source=mr,target=ref; default: those used in training.
        data_format: Format of the file when its extension does not say.
        batch_size: Examples per batch.
        dtype: Type of the base model's weights: auto (as in training), float32, bfloat16, float16.
    """
    from prefixtune import evaluation
    from prefixtune.checkpoint import local_folder, read_config
    from prefixtune.cli.data import check_columns
    from prefixtune.cli.data import read as read_data
    from prefixtune.probe import lengths
    from prefixtune.probe import run as probing
    from prefixtune.training import results

    results.check_new_folder(output)
    lengths.check_ratio(budget)
    folder = local_folder(prefix)
    read_config(folder)  # a broken one shows before data are fetched
    renames = column_names(columns)
    table = read_data(data, split=split, subset=subset, form=data_format, columns=renames)
    table = probing.first_rows(table, limit)
    loaded = evaluation.load(model, {"default": prefix}, dtype=dtype)
    if renames is None:
        table = evaluation.trained_columns(loaded.metadata["default"], table)
    check_columns(table, data, loaded)
    base = model or loaded.model.config._name_or_path
    facts = {"prefix": prefix, "model": base, "data": data, "by": by, "limit": limit, "budget": budget}
    found = probing.probe(
        loaded, "default", table, folder=folder, output=output, by=by, budget=budget, batch_size=batch_size,
        facts=facts,
    )  # fmt: skip
    report.show_facts(str(output), probing.summary(found))
    print(f"report: {output / 'report.html'}", file=sys.stderr)
    print(lengths.shell_line(found.command))
