"""XSum's original files: the furniture of the BBC's pages, and which topic an address tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prefixtune import corpora
from prefixtune.corpora import news

# The eleven lines that the data set on the hub is without (its loading script, version 1.2.0).
REMOVED = """Share this with
Email
Facebook
Messenger
Twitter
Pinterest
WhatsApp
Linkedin
LinkedIn
Copy this link
These are external links and will open in a new window""".split("\n")


def articles(folder: Path, urls: dict[str, str], body: str = "A line.\nAnother.") -> Path:
    """Original files of articles by their ids, each in every split."""
    summaries = folder / news.FOLDER
    summaries.mkdir(parents=True)
    for number, url in urls.items():
        parts = {"URL": url, "TITLE": "t", "FIRST-SENTENCE": f"{number} happened.", "RESTBODY": body}
        text = "\n\n".join(f"[SN]{name}[SN]\n{part}" for name, part in parts.items())
        (summaries / f"{number}.summary").write_text(text + "\n", encoding="utf-8")
    splits = {split: list(urls) for split in ("train", "validation", "test")}
    (folder / news.SPLITS).write_text(json.dumps(splits))
    return folder


def read(name: str, folder: Path) -> Any:
    return corpora.find(name).read(str(folder))


def test_lines_of_the_page_about_the_article_are_no_part_of_it(tmp_path: Path) -> None:
    body = "\n".join([*REMOVED, "", "Facebook bought it.", "Email", "The end, on Twitter", "Twitter"])
    found = read("xsum", articles(tmp_path, {"1": "http://www.bbc.co.uk/news/uk-1"}, body))
    assert [row["source"] for row in found.train.rows] == ["Facebook bought it. The end, on Twitter"]


def test_what_the_hubs_version_keeps_is_kept(tmp_path: Path) -> None:
    """The line of a video stands in the hub's articles, too, and so in what the papers' models read."""
    body = "Media playback is unsupported on your device\nIt rained."
    found = read("xsum", articles(tmp_path, {"1": "http://www.bbc.co.uk/news/uk-1"}, body))
    assert found.train.rows[0]["source"] == "Media playback is unsupported on your device It rained."


def test_articles_without_a_text_are_left_out_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """XSum has a few of pictures and buttons alone (EdinburghNLP/XSum, issue 29); together they would be one input."""
    folder = articles(tmp_path, {"1": "http://www.bbc.co.uk/news/uk-1", "2": "http://www.bbc.co.uk/news/uk-2"})
    path = folder / news.FOLDER / "2.summary"
    path.write_text(path.read_text().replace("A line.\nAnother.", "Share this with\nEmail"))
    found = read("xsum", folder)
    assert [row["target"] for row in found.tests["test"].rows] == ["1 happened."]
    assert "(test): 1 of 2 articles are left out: empty" in capsys.readouterr().err


URLS = {
    "1": "http://www.bbc.co.uk/news/10622048", "2": "http://www.bbc.co.uk/news/uk-2",
    "3": "http://www.bbc.co.uk/sport/0/football/3", "4": "http://www.bbc.co.uk/news/health-4",
    "5": "http://www.bbc.co.uk/newsround/5", "6": "http://news.bbc.co.uk/1/hi/uk/6.stm",
}  # fmt: skip


def ids(table: Any) -> str:
    return "".join(row["target"][0] for row in table.rows)


def test_an_address_of_the_news_without_a_section_is_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read("xsum_news_to_sports", articles(tmp_path, URLS))
    assert (ids(found.train), ids(found.dev), ids(found.tests["test"])) == ("124", "124", "3")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, "what is left out is told once"
    assert re.search(r"xsum_news_to_sports: 6 of 18 articles .* http://www.bbc.co.uk/newsround/5", told[0])


def test_what_has_no_section_is_left_out_of_the_split_within_the_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read("xsum_within_news", articles(tmp_path, URLS))
    assert (ids(found.train), ids(found.dev), ids(found.tests["test"])) == ("2", "2", "4")
    assert "xsum_within_news: 9 of 18 articles" in capsys.readouterr().err


def test_nothing_is_told_where_every_address_has_a_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {number: url for number, url in URLS.items() if number in "234"}
    read("xsum_within_news", articles(tmp_path, known))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("url", "topic"),
    [
        ("http://www.bbc.co.uk/news/10622048", "news"), ("https://www.bbc.com/news/10622048", "news"),
        ("http://www.bbc.co.uk/news/1/hi/uk/10622048.stm", "uk"), ("http://www.bbc.co.uk/news/world-us-1", "world"),
        ("http://www.bbc.co.uk/newsround/10622048", None), ("http://www.bbc.co.uk/newsbeat/10622048", None),
    ],
)  # fmt: skip
def test_the_topic_of_an_address(url: str, topic: str | None) -> None:
    assert news.topic(url) == topic
