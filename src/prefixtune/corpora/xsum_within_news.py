"""XSum's second split by topic in Prefix-Tuning (section 6.4): world, UK and business news; tested on other news."""

from __future__ import annotations

from prefixtune.corpora.news import NO_SECTION, TopicSplit

TRAINED = ("world", "uk", "business")


class XSumWithinNews(TopicSplit):
    """World, UK and business news for training and development; health, technology and the rest for the test.

    News whose addresses name no section are in neither.
    """

    def trains_on(self, section: str) -> bool:
        return section in TRAINED

    def tests_on(self, section: str) -> bool:
        return section not in (*TRAINED, "sport", NO_SECTION)
