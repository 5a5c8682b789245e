"""Data in the forms they are handed out in: CoNLL-2012's columns, SpERT's spans, `save_to_disk` folders, many names."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefixtune import corpora
from prefixtune.errors import DataError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- CoNLL-2003 and CoNLL-2004 -----------------------------------------------------------------------------------

LINES = "-DOCSTART- -X- O O\n\nAda NNP I-NP I-PER\nsat VBD I-VP O\n"


@pytest.mark.parametrize(
    "files",
    [
        ("eng.train", "eng.testa", "eng.testb"),
        ("train.txt", "valid.txt", "test.txt"),
        ("train.txt", "dev.txt", "test.txt"),
        ("train.txt", "testa.txt", "testb.txt"),
    ],
)
def test_conll2003_is_read_under_every_name_of_its_development_set(tmp_path: Path, files: tuple[str, ...]) -> None:
    for number, file in enumerate(files):
        write(tmp_path / file, LINES.replace("Ada", f"Ada{number}"))
    found = corpora.find("conll2003").read(str(tmp_path))
    first = [table.rows[0] for table in (found.train, found.dev, found.tests["test"])]
    assert first == [{"tokens": [f"Ada{number}", "sat"], "tags": ["I-PER", "O"]} for number in range(3)]


def test_of_the_names_of_a_corpus_those_are_meant_that_most_files_have(tmp_path: Path) -> None:
    for file in ("train.txt", "dev.txt"):
        write(tmp_path / file, LINES)
    with pytest.raises(DataError, match="conll2003: there is no file .*/test.txt"):
        corpora.find("conll2003").read(str(tmp_path))
