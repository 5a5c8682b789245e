"""XSum's first split by topic in Prefix-Tuning (section 6.4): trained on news, tested on sports."""

from __future__ import annotations

from prefixtune.corpora.news import TopicSplit


class XSumNewsToSports(TopicSplit):
    """Articles under bbc.co.uk/news for training and development, those under bbc.co.uk/sport for the test."""

    def trains_on(self, section: str) -> bool:
        return section != "sport"

    def tests_on(self, section: str) -> bool:
        return section == "sport"
