"""XSum's first split by topic in Prefix-Tuning (section 6.4): trained on news, tested on sports."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefixtune.corpora import news
from prefixtune.corpora.corpus import Corpus, Hub, Splits


class XSumNewsToSports(Corpus):
    """Articles under bbc.co.uk/news for training and development, those under bbc.co.uk/sport for the test."""

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    layout: ClassVar[str] = news.LAYOUT
    hub: ClassVar[str] = "an XSum with a column url"

    def original(self, folder: Path) -> Splits | None:
        found = news.from_files(folder, self.need)
        return None if found is None else _by_topic(found)

    def published(self, hub: Hub) -> Splits:
        return _by_topic(news.from_hub(hub))


def _by_topic(splits: Splits) -> Splits:
    return news.by_topic(splits, lambda topic: topic != "sport", lambda topic: topic == "sport")
