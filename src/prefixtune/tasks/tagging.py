"""Token classification: `tokens` -> `tags`, the label on a word's first sub-token, entities scored by seqeval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune import metrics
from prefixtune.errors import DataError, ModelError, near_miss
from prefixtune.tasks.cells import as_text, label_options
from prefixtune.tasks.readers import Table, parsed, words_of
from prefixtune.tasks.task import IGNORED, Feature, HeadTask, Window, refuse_empty, tell_once

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

OUTSIDE = "O"
_SCHEMES = {"IOB": "BI", "BILOU": "BILU", "IOBES": "BIES"}
"""Schemes by the marks of their tags."""
_TO_IOB2 = {"B": "B", "I": "I", "L": "I", "E": "I", "U": "B", "S": "B"}


@dataclass(frozen=True)
class Tagging(HeadTask):
    """One tag a word.

    Args:
        labels: the tags, in the order of the head's outputs.
        scheme: how the tags mark entities: `IOB` (either kind), `BILOU`, `IOBES`, or `none` (plain tags such as
            parts of speech: accuracy only).
        iob2: tags are converted to IOB2 on reading (BILOU and IOBES lose nothing by it).
    """

    labels: tuple[str, ...]
    scheme: str = "IOB"
    iob2: bool = False

    kind: ClassVar[str] = "tagging"
    required: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    libraries: ClassVar[tuple[str, ...]] = ("seqeval",)

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        iob2 = options.get("tag_scheme") == "iob2"
        rows = _checked(table)
        tags = {tag for row in rows for tag in row["tags"]}
        if iob2:
            tags = {_as_iob2(tag, table.name) for tag in tags}
        scheme = _scheme(tags)
        if scheme == "none":
            _tell_of_strays(table, rows)
        return cls(labels=tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag))), scheme=scheme, iob2=iob2)

    def prepared(self, table: Table) -> Table:
        rows = _checked(table)
        for index, row in enumerate(rows):
            if self.iob2:
                row["tags"] = [_as_iob2(tag, table.where(index)) for tag in row["tags"]]
            for tag in row["tags"]:
                if tag not in self.labels:
                    raise DataError(
                        f"{table.where(index)}: the tag {tag!r} was not seen in training{near_miss(tag, self.labels)}"
                    )
        return Table(table.name, rows, table.lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy",) if self.scheme == "none" else ("f1", "precision", "recall", "accuracy")

    def model_class(self, config: PretrainedConfig) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def model_options(self) -> dict[str, Any]:
        return label_options(self.labels)

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        if not tokenizer.is_fast:
            raise ModelError(f"tagging needs a fast tokenizer to tell words apart; {type(tokenizer).__name__} is slow")
        limit = window.inputs()
        before = " " if _want_a_space(tokenizer) else ""
        tokens = [[before + token for token in row["tokens"]] for row in table.rows]
        encoded = tokenizer(tokens, is_split_into_words=True, truncation=limit is not None, max_length=limit)
        refuse_empty(table, map(len, encoded["input_ids"]))
        number = {tag: index for index, tag in enumerate(self.labels)}
        features = []
        for index, row in enumerate(table.rows):
            words = _first(encoded.word_ids(index))
            labels = [IGNORED if word is None else number[row["tags"][word]] for word in words]
            features.append({**{k: values[index] for k, values in encoded.items()}, "labels": labels, "words": words})
        return features

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from transformers import DataCollatorForTokenClassification

        pad = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)
        return lambda features: pad(_without_words(features))

    def packer(self, model: PreTrainedModel) -> Any:
        from prefixtune.packing import pack
        from prefixtune.positions import first_position

        first = first_position(model)
        return lambda features: pack(_without_words(features), first=first, shifted=False)

    def answers(self, logits: torch.Tensor, features: Sequence[Feature]) -> list[list[str]]:
        """The tags of the words that were not cut off, one list a row."""
        rows = []
        for ids, feature in zip(logits.argmax(dim=-1).tolist(), features, strict=True):
            pairs = zip(feature["words"], ids, strict=False)  # rows are padded on the right
            tags = {word: self.labels[index] for word, index in pairs if word is not None}
            # A word without a sub-token (a lone control character) has no answer: nothing there.
            rows.append([tags.get(word, OUTSIDE) for word in range(max(tags, default=-1) + 1)])
        return rows

    def score(self, answers: Sequence[Sequence[str]], table: Table) -> dict[str, float]:
        gold = [row["tags"] for row in table.rows]
        found = completed(answers, gold)
        pairs = [pair for row in zip(gold, found, strict=True) for pair in zip(*row, strict=True)]
        accuracy = sum(a == b for a, b in pairs) / max(len(pairs), 1)
        return {**_entity_scores(gold, found, self.scheme), "accuracy": accuracy}


def completed(answers: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> list[list[str]]:
    """A tag for every word: one that was cut off got no answer, which is an answer, no entity there."""
    return [[*row, *[OUTSIDE] * (len(tags) - len(row))] for row, tags in zip(answers, gold, strict=True)]


def _want_a_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words have to begin with a space to be cut as they are in a text.

    A byte-level tokenizer of transformers' generic class takes `add_prefix_space` and does nothing with it. Where a
    space is a token of its own it is left out: the word's tag would be read at it.
    """

    def second(words: list[str]) -> list[int]:
        encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
        return [number for number, word in zip(encoded["input_ids"], encoded.word_ids(), strict=True) if word == 1]

    first, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("x", "x hello"))
    there = both[len(first) :]
    bare_space = not str(tokenizer.decode(there[:1])).strip()
    return second(["x", "hello"]) != there == second([" x", " hello"]) and not bare_space


STRICT = ("BILOU", "IOBES")
"""Schemes that seqeval reads only in strict mode; its default mode is conlleval's, for both kinds of IOB."""


def _entity_scores(gold: list[list[str]], found: list[list[str]], scheme: str) -> dict[str, float]:
    if scheme == "none":
        return {}
    strict = f":{scheme}" if scheme in STRICT else ""
    return {name: metrics.score(f"entity_{name}{strict}", found, gold) for name in ("f1", "precision", "recall")}


def _checked(table: Table) -> list[dict[str, list[str]]]:
    """Fresh rows of `tokens` and `tags` of equal length; entity spans (`entities`) become IOB2 tags."""
    columns = table.columns()
    spans = "tags" not in columns and "entities" in columns
    table.require(("tokens", "entities" if spans else "tags"))
    rows = []
    for index, row in enumerate(table.rows):
        where = table.where(index)
        tokens = _words(row["tokens"], where)
        tags = span_tags(row["entities"], len(tokens), where) if spans else _words(row["tags"], where)
        if len(tokens) != len(tags):
            raise DataError(f"{where}: {len(tokens)} tokens but {len(tags)} tags; expected one tag a token")
        if not tokens:
            raise DataError(f"{where}: no tokens")
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def _words(value: Any, where: str) -> list[str]:
    """A list of strings, also from a CSV field: a JSON list, or words separated by spaces."""
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return words_of(value)
        value = parsed(value, f"{where}: {value[:40]!r} begins like a JSON list but is none")
    if not isinstance(value, list) or any(item is None or isinstance(item, dict | list) for item in value):
        raise DataError(f"{where}: expected a list of words or tags, got {str(value)[:60]!r}")
    return [as_text(item, where) for item in value]


def span_tags(entities: Any, length: int, where: str) -> list[str]:
    """IOB2 tags of spans `{"type", "start", "end"}`, in words, the end exclusive."""
    if isinstance(entities, str):
        entities = parsed(entities, f"{where}: {entities[:40]!r} is no JSON list of entities")
    if not isinstance(entities, list):
        raise DataError(f"{where}: expected a list of entities, got {str(entities)[:60]!r}")
    tags = [OUTSIDE] * length
    for entity in entities:
        try:
            kind, start, end = entity["type"], entity["start"], entity["end"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: the entity {entity!r} needs type, start and end") from error
        if not isinstance(kind, str) or not kind or [type(start), type(end)] != [int, int]:
            raise DataError(f"{where}: the entity {entity!r} needs a name as type, whole numbers as start and end")
        if not 0 <= start < end <= length:
            raise DataError(f"{where}: the entity {entity!r} does not lie within the {length} tokens")
        if set(tags[start:end]) != {OUTSIDE}:
            raise DataError(f"{where}: the entity {entity!r} overlaps another; expected one tag a word")
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def _scheme(tags: Iterable[str]) -> str:
    marks = {tag.partition("-")[0] for tag in tags if "-" in tag}
    plain = [tag for tag in tags if tag != OUTSIDE and not tag.partition("-")[2]]
    if plain or not marks:
        return "none"
    return next((scheme for scheme, known in _SCHEMES.items() if marks <= set(known)), "none")


def _tell_of_strays(table: Table, rows: Sequence[Mapping[str, list[str]]]) -> None:
    """A warning where most tags have a scheme's marks and some have none: a slip of the pen leaves no F1 to score."""
    counts = Counter(tag for row in rows for tag in row["tags"] if tag != OUTSIDE)
    strays = {scheme: [tag for tag in counts if not _has_mark(tag, scheme)] for scheme in _SCHEMES}
    scheme = min(strays, key=lambda scheme: sum(counts[tag] for tag in strays[scheme]))
    stray, total = sum(counts[tag] for tag in strays[scheme]), counts.total()
    if not total or 2 * stray >= total:
        return
    first = next(i for i, row in enumerate(rows) if not set(strays[scheme]).isdisjoint(row["tags"]))
    named = ", ".join(map(repr, strays[scheme][:5])) + (" ..." if strays[scheme][5:] else "")
    what = f"the tag {named} has" if len(strays[scheme]) == 1 else f"the tags {named} have"
    tell_once(
        f"{table.where(first)}: {what} no mark of {scheme}, which {total - stray:,} of {total:,} tags have: there is "
        f"no F1 of entities, only accuracy; write {OUTSIDE} for what is none"
    )


def _has_mark(tag: str, scheme: str) -> bool:
    mark, _, kind = tag.partition("-")
    return mark in tuple(_SCHEMES[scheme]) and bool(kind)


def _as_iob2(tag: str, where: str) -> str:
    mark, dash, kind = tag.partition("-")
    if tag == OUTSIDE:
        return tag
    if not dash or mark not in _TO_IOB2:
        raise DataError(f"{where}: the tag {tag!r} is not BILOU, IOBES or IOB2; leave --tag-scheme as_given")
    return f"{_TO_IOB2[mark]}-{kind}"


def _without_words(features: Sequence[Feature]) -> list[Feature]:
    return [{name: values for name, values in feature.items() if name != "words"} for feature in features]


def _first(words: Sequence[int | None]) -> list[int | None]:
    """`words` with all but the first sub-token of each word blanked."""
    return [None if position and word == words[position - 1] else word for position, word in enumerate(words)]
