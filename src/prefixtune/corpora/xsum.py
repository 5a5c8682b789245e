"""XSum (Narayan et al. 2018): a BBC article -> its first sentence."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from prefixtune.corpora import news
from prefixtune.corpora.corpus import Corpus, Hub, Splits


class XSum(Corpus):
    """204,045 / 11,332 / 11,334 articles."""

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    layout: ClassVar[str] = news.LAYOUT
    hub: ClassVar[str] = "EdinburghNLP/xsum"

    def original(self, folder: Path) -> Splits | None:
        return news.from_files(folder, self.need)

    def published(self, hub: Hub) -> Splits:
        return news.from_hub(hub)
