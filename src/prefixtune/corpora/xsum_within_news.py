"""XSum's second split by topic in Prefix-Tuning (section 6.4): world, UK and business news; tested on other news."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefixtune.corpora import news
from prefixtune.corpora.corpus import Corpus, Hub, Splits

TRAINED = ("world", "uk", "business")


class XSumWithinNews(Corpus):
    """World, UK and business news for training and development; health, technology and the rest for the test."""

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
    return news.by_topic(
        splits, lambda topic: topic in TRAINED, lambda topic: topic not in (*TRAINED, "sport")
    )
