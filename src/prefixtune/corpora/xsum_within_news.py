"""XSum's second split by topic in Prefix-Tuning (section 6.4): world, UK and business news; tested on other news."""

from __future__ import annotations

from prefixtune.corpora.news import TopicSplit

TRAINED = ("world", "uk", "business")


class XSumWithinNews(TopicSplit):
    """World, UK and business news for training and development; health, technology and the rest for the test."""

    def trains_on(self, section: str) -> bool:
        return section in TRAINED

    def tests_on(self, section: str) -> bool:
        return section not in (*TRAINED, "sport")
