"""WebNLG's releases: each in the form it was published in, hand-written here, and the real files where they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_corpora_hub import publish

from prefixtune import corpora
from prefixtune.corpora.webnlg import WebNLG
from prefixtune.errors import DataError

REFS_3 = "rdf-to-text-generation-test-data-with-refs-en.xml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def entry(*lexes: str, category: str = "Airport", number: int = 1) -> str:
    triple = "<modifiedtripleset><mtriple>A | b | C</mtriple></modifiedtripleset>"
    return f'<entry category="{category}" eid="Id{number}" size="1">{triple}{"".join(lexes)}</entry>'


def benchmark(*entries: str) -> str:
    return f"<benchmark><entries>{''.join(entries)}</entries></benchmark>"


def plain(text: str, lang: str = "") -> str:
    return f'<lex comment="good" lid="Id1"{lang}>{text}</lex>'


def release(folder: Path, *lexes: str, test: str = "test/testdata_with_lex.xml") -> Path:
    """One entry in every split, under the name of the test file that a release has."""
    for name in ("train/1triples/a.xml", "dev/1triples/a.xml", test):
        write(folder / name, benchmark(entry(*lexes)))
    return folder


def read(folder: Path) -> Any:
    return corpora.find("webnlg").read(str(folder))


def targets(table: Any) -> list[str]:
    return [row["target"] for row in table.rows]


def test_a_text_of_the_enriched_release_stands_inside_its_lex(tmp_path: Path) -> None:
    lex = (
        '<lex comment="good" lid="Id1">\n<sortedtripleset><sentence ID="1"><striple>A | b | C</striple></sentence>'
        "</sortedtripleset><references/>\n<text> A is\nC. </text><template>AGENT-1 is PATIENT-1 .</template></lex>"
    )
    assert targets(read(release(tmp_path, lex)).train) == ["A is C."]


@pytest.mark.parametrize("lex", [plain(" "), "<lex/>", "<lex>\n<text></text><template>x</template></lex>"])
def test_an_empty_text_is_refused_with_its_file_and_entry(tmp_path: Path, lex: str) -> None:
    release(tmp_path, plain("A is C."))
    write(tmp_path / "dev/1triples/a.xml", benchmark(entry(plain("A is C.")), entry(lex, number=7)))
    with pytest.raises(DataError, match=r"dev/1triples/a.xml, entry Id7: .* empty text"):
        read(tmp_path)


def test_only_english_texts_are_kept(tmp_path: Path) -> None:
    texts = plain("A is C.", ' lang="en"'), plain("А это Ц.", ' lang="ru"'), plain("C is A's b.", ' lang=""')
    found = read(release(tmp_path, *texts, plain("None.")))
    assert targets(found.train) == targets(found.tests["all"]) == ["A is C.", "C is A's b.", "None."]


@pytest.mark.parametrize("test", ["test/testdata_with_lex.xml", f"test/{REFS_3}", "test/1triples/Airport_1.xml"])
def test_the_test_set_is_found_under_the_name_each_release_gives_it(tmp_path: Path, test: str) -> None:
    release(tmp_path, plain("A is C."), test=test)
    # Beside it lie the inputs alone and the test set of the other direction, text to triples.
    for other in ("testdata_no_lex.xml", "semantic-parsing-test-data-with-refs-en.xml"):
        write(tmp_path / "test" / other, benchmark(entry(plain("Not this one."), number=2)))
    assert targets(read(tmp_path).tests["all"]) == ["A is C."]


def test_categories_of_the_training_files_are_the_seen_ones_in_every_release(tmp_path: Path) -> None:
    release(tmp_path, plain("A is C."))
    both = entry(plain("Seen."), category="Airport"), entry(plain("Unseen."), category="Film")
    write(tmp_path / "test" / REFS_3, benchmark(*both))
    (tmp_path / "test/testdata_with_lex.xml").unlink()
    tests = read(tmp_path).tests
    assert {name: targets(table) for name, table in tests.items()} == {
        "seen": ["Seen."], "unseen": ["Unseen."], "all": ["Seen.", "Unseen."],
    }  # fmt: skip


def test_a_test_set_that_is_missing_is_named_with_what_was_expected(tmp_path: Path) -> None:
    release(tmp_path, plain("A is C."))
    (tmp_path / "test/testdata_with_lex.xml").rename(tmp_path / "test/testdata_no_lex.xml")
    with pytest.raises(DataError, match=rf"webnlg: .* no test set in .*test; expected .*with_lex.xml.*{REFS_3}"):
        read(tmp_path)


def in_json(*lexes: dict[str, str]) -> dict[str, Any]:
    triple = {"subject": "A", "property": "b", "object": "C"}
    item = {"category": "Airport", "lexicalisations": list(lexes), "modifiedtripleset": [triple], "xml_id": "Id9"}
    return {"entries": [{"1": item}]}


@pytest.mark.parametrize("name", ["{}.json", "webnlg_release_v2.1_{}.json"])
def test_webnlgs_json_is_read_where_there_is_no_xml(tmp_path: Path, name: str) -> None:
    lexes = [
        {"comment": "good", "lang": "", "lex": "A is\nC."}, {"comment": "toFix", "lang": "", "lex": "bad"},
        {"comment": "good", "lang": "ru", "lex": "А это Ц."}, {"comment": "good", "lex": "C."},
    ]  # fmt: skip
    for split in ("train", "dev", "test"):
        write(tmp_path / name.format(split), json.dumps(in_json(*lexes)))
    found = read(tmp_path)
    expected = [{"source": "| A : b : C", "target": text, "category": "Airport"} for text in ("A is C.", "C.")]
    assert found.train.rows == found.dev.rows == found.tests["seen"].rows == found.tests["all"].rows == expected
    for split in ("train", "dev"):
        write(tmp_path / split / "1triples/a.xml", benchmark(entry(plain("From XML."))))
    assert (targets(read(tmp_path).train), targets(read(tmp_path).tests["all"])) == (["From XML."], ["A is C.", "C."])


def test_json_of_another_form_is_named_or_left_to_its_own_reader(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.json", json.dumps([{"a": 1}]))
    with pytest.raises(DataError, match="holds no files of webnlg"):
        read(tmp_path)
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.json", json.dumps({"entries": [{"1": {"category": "Airport"}}]}))
    with pytest.raises(DataError, match=r"train.json: expected WebNLG's form, .* got 'modifiedtripleset'"):
        read(tmp_path)


def on_the_hub(test_category: str, text: str, langs: list[str]) -> dict[str, Any]:
    return {
        "category": "Airport", "modified_triple_sets": {"mtriple_set": [["A | b | C"]]}, "test_category": test_category,
        "lex": {"comment": ["good"] * len(langs), "text": [f"{text} {lang}" for lang in langs], "lang": langs},
    }  # fmt: skip


@pytest.mark.parametrize("main", ["testdata_with_lex", REFS_3.removesuffix(".xml")])
def test_of_the_hubs_test_files_in_one_split_the_whole_one_is_taken(tmp_path: Path, main: str) -> None:
    """The hub has every test file of a release in one split: without lexes, the unseen half once more, the parsing."""
    others = ("testdata_unseen_with_lex", "testdata_no_lex", "semantic-parsing-test-data-with-refs-en")
    rows = [on_the_hub(main, "A is C.", ["en", "ru"]), *(on_the_hub(other, "Again.", ["en"]) for other in others)]
    found = read(Path(publish(tmp_path / "set", rows, None, WebNLG.subset or "")))
    assert targets(found.tests["all"]) == ["A is C. en"]


def test_the_real_json_has_the_texts_of_the_real_xml(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "webnlg2017"
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(folder / split)
    (tmp_path / "dev.json").symlink_to(folder / "dev.json")

    def counted(table: Any) -> Counter[tuple[str, ...]]:
        return Counter(tuple(row.values()) for row in table.rows)

    from_xml = read(folder)
    assert counted(read(tmp_path).dev) == counted(from_xml.dev)
