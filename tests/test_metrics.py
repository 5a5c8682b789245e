"""Metrics against their formulas, worked out here from the definitions and not by the libraries in use."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from prefixtune import tasks
from prefixtune.tasks import Table


def table(rows: list[dict[str, Any]]) -> Table:
    return Table("data", rows, list(range(1, len(rows) + 1)))


# --- classification ----------------------------------------------------------------------------------------------

GOLD = ["a", "a", "a", "b", "b", "c"]
FOUND = ["a", "a", "b", "b", "c", "c"]


def classification(gold: list[str], found: list[str]) -> dict[str, float]:
    rows = table([{"text": "", "label": label} for label in gold])
    return tasks.find("classification").learn(rows).score(found, rows)


def test_accuracy_and_macro_f1_are_their_formulas() -> None:
    scores = classification(GOLD, FOUND)
    f1 = []
    for label in "abc":
        hits = sum(g == f == label for g, f in zip(GOLD, FOUND, strict=True))
        f1.append(2 * hits / (GOLD.count(label) + FOUND.count(label)))
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["macro_f1"] == pytest.approx(sum(f1) / 3)


def test_mcc_is_its_formula_for_two_classes() -> None:
    gold, found = ["a"] * 5 + ["b"] * 4, ["a"] * 3 + ["b"] * 5 + ["a"]
    tp, fn, fp, tn = 3, 2, 1, 3
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert classification(gold, found)["mcc"] == pytest.approx(expected)


# --- tagging -----------------------------------------------------------------------------------------------------


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities of well-formed BILOU tags."""
    found, start = set(), 0
    for position, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark in ("B", "U"):
            start = position
        if mark in ("L", "U"):
            found.add((kind, start, position))
    return found


def bilou(draw: random.Random) -> list[str]:
    tags: list[str] = []
    while len(tags) < 12:
        kind, length = draw.choice(["Loc", "Org"]), draw.randint(1, 3)
        tags += ["O"] * draw.randint(0, 2)
        tags += [f"U-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"L-{kind}"]
    return [*tags, *["O"] * (20 - len(tags))]


CONVERSIONS = {
    "BILOU": {},
    "IOBES": {"L": "E", "U": "S"},
    "IOB": {"L": "I", "U": "B"},
}


@pytest.mark.parametrize("scheme", CONVERSIONS)
def test_entity_scores_count_whole_entities_in_every_scheme(scheme: str) -> None:
    draw = random.Random(0)
    gold = [bilou(draw) for _ in range(30)]
    found = [list(tags) if draw.random() < 0.5 else bilou(draw) for tags in gold]
    hits = sum(len(spans(g) & spans(f)) for g, f in zip(gold, found, strict=True))
    precision = hits / sum(len(spans(f)) for f in found)
    recall = hits / sum(len(spans(g)) for g in gold)

    def converted(rows: list[list[str]]) -> list[list[str]]:
        marks = CONVERSIONS[scheme]
        return [[marks.get(tag[0], tag[0]) + tag[1:] for tag in tags] for tags in rows]

    rows = table([{"tokens": tags, "tags": tags} for tags in converted(gold)])
    task = tasks.find("tagging").learn(rows)
    scores = task.score(converted(found), rows)
    assert task.scheme == scheme
    assert scores["precision"] == pytest.approx(precision)
    assert scores["recall"] == pytest.approx(recall)
    assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_an_entity_of_the_wrong_length_or_type_is_no_hit() -> None:
    rows = table([{"tokens": ["x"] * 4, "tags": ["B-Loc", "L-Loc", "O", "U-Org"]}])
    task = tasks.find("tagging").learn(rows)
    assert task.score([["U-Loc", "O", "O", "U-Loc"]], rows)["f1"] == 0.0
    assert task.score([["B-Loc", "L-Loc", "O", "U-Loc"]], rows)["f1"] == 0.5


def test_plain_tags_are_scored_by_accuracy_alone() -> None:
    rows = table([{"tokens": ["a", "b", "c"], "tags": ["DT", "NN", "VB"]}])
    assert tasks.find("tagging").learn(rows).score([["DT", "NN", "NN"]], rows) == {"accuracy": pytest.approx(2 / 3)}


# --- text to text ------------------------------------------------------------------------------------------------


def text_scores(pairs: list[tuple[str, list[str]]]) -> dict[str, float]:
    rows = table([{"source": str(i), "target": ref} for i, (_, refs) in enumerate(pairs) for ref in refs])
    return tasks.find("text2text").learn(rows).score([answer for answer, _ in pairs], rows)


def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(pairs: list[tuple[str, list[str]]]) -> float:
    """Papineni et al. 2002: clipped n-gram precisions, the closest reference length, no smoothing."""
    hits, totals, length, closest = [0] * 4, [0] * 4, 0, 0
    for answer, references in pairs:
        words, others = answer.split(), [reference.split() for reference in references]
        length += len(words)
        closest += min((abs(len(o) - len(words)), len(o)) for o in others)[1]
        for n in range(1, 5):
            most: Counter[tuple[str, ...]] = Counter()
            for other in others:
                most |= grams(other, n)
            hits[n - 1] += (grams(words, n) & most).total()
            totals[n - 1] += grams(words, n).total()
    brevity = 1.0 if length > closest else math.exp(1 - closest / length)
    return 100 * brevity * math.exp(sum(math.log(h / t) for h, t in zip(hits, totals, strict=True)) / 4)


def rouge_n(answer: str, reference: str, n: int) -> float:
    ours, theirs = grams(answer.split(), n), grams(reference.split(), n)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


PAIRS = [
    ("the cat sat on the mat today", ["the cat sat on the mat", "a cat was sitting on the mat today"]),
    ("there is a dog in the yard", ["there is a dog in the old yard"]),
    ("he ate one red apple", ["he ate a red apple", "she ate one apple", "he had one red apple then"]),
]


def test_bleu_is_its_formula_with_any_number_of_references() -> None:
    assert text_scores(PAIRS)["bleu"] == pytest.approx(bleu(PAIRS), abs=1e-6)


def test_rouge_is_its_formula_with_the_best_reference() -> None:
    scores = text_scores(PAIRS)
    for n in (1, 2):
        best = [max(rouge_n(answer, reference, n) for reference in references) for answer, references in PAIRS]
        # The stemmer maps 'sitting' to 'sit' and 'apple' to 'appl' alike on both sides; no pair is changed by it.
        assert scores[f"rouge{n}"] == pytest.approx(sum(best) / len(best))


def test_a_perfect_answer_scores_full_marks_whichever_reference_it_is() -> None:
    scores = text_scores([(references[-1], references) for _, references in PAIRS])
    assert scores["bleu"] == pytest.approx(100)
    assert scores["chrf"] == pytest.approx(100)
    assert scores["rouge1"] == scores["rouge2"] == scores["rougeL"] == 1.0
