"""E2E NLG (Novikova et al. 2017): what a restaurant is -> a sentence or two about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from prefixtune.corpora.corpus import Corpus, Hub, Splits, converted, pair
from prefixtune.errors import DataError
from prefixtune.tasks.readers import Row, Table, read

_SLOT = re.compile(r"\s*([^,\[\]]+)\[([^\]]*)\]\s*(?:,|$)")
_NAMES = {"eatType": "Type", "familyFriendly": "family friendly", "priceRange": "price"}


class E2E(Corpus):
    """42,061 / 4,672 / 4,693 pairs; the test set has 630 meaning representations with several references each."""

    task: ClassVar[str] = "text2text"
    metrics: ClassVar[tuple[str, ...]] = ("bleu_e2e", "nist", "meteor_e2e", "rouge_l_e2e", "cider")
    layout: ClassVar[str] = "trainset.csv, devset.csv and testset_w_refs.csv with the columns mr and ref"
    hub: ClassVar[str] = "tuetschek/e2e_nlg"

    def original(self, folder: Path) -> Splits | None:
        paths = [folder / name for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv")]
        if not any(path.is_file() for path in paths):
            return None
        train, dev, test = (_pairs(read(str(self.need(path)))) for path in paths)
        return Splits(train, dev, {"test": test})

    def published(self, hub: Hub) -> Splits:
        train, dev, test = (_pairs(hub.table(*split)) for split in (("train",), ("validation", "dev"), ("test",)))
        return Splits(train, dev, {"test": test})


def linearised(meaning: str, where: str = "") -> str:
    """A meaning representation as Prefix-Tuning's code writes it: `name[X], eatType[pub]` -> `name : X | Type : pub`.

    Slots have the names of Li & Liang's files and signs stand apart (`£ 20 - 25`), as in those files.
    """
    slots, place = [], 0
    while place < len(meaning):
        found = _SLOT.match(meaning, place)
        if found is None:
            raise DataError(f"{where}: {meaning!r} is no meaning representation; expected slot[value], slot[value]")
        slot, value = found[1].strip(), found[2].strip()
        slots.append(f"{_NAMES.get(slot, slot)} : {_apart(value)}")
        place = found.end()
    return " | ".join(slots)


def _apart(value: str) -> str:
    return re.sub(r"(?<=\d)-(?=\d)", " - ", value.replace("£", "£ ")) if "£" in value else value


def _pairs(table: Table) -> Table:
    def pairs(row: Row, where: str) -> list[Row]:
        meaning = row.get("mr", row.get("meaning_representation"))
        text = row.get("ref", row.get("human_reference", row.get("target")))
        if meaning is None or text is None:
            raise DataError(f"{where}: expected the columns mr and ref, got {', '.join(row)}")
        # GEM's version, cleaned and so not with the papers' rows, has one row a meaning in its test set.
        several = row.get("references") or []
        source = linearised(meaning, where)
        return [pair(source, " ".join(target.split()), where) for target in several or [text]]

    return converted(table, pairs)
