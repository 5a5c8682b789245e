"""Metrics against the scripts they stand for: values of the reference programs, other libraries, worked examples."""

from __future__ import annotations

import csv
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefixtune import corpora, metrics
from prefixtune.errors import ConfigError, DataError
from prefixtune.metrics import meteor
from prefixtune.metrics.words import coco, webnlg, webnlg_references

# Our own sentences in E2E's manner: answers, and one reference or two.
PAIRS = [
    (
        "The Old Mill is a family-friendly pub near the river.",
        [
            "The Old Mill, near the river, is a pub for families.",
            "Near the river there's a family-friendly pub: The Old Mill.",
        ],
    ),
    (
        "Strada doesn't allow children and costs more than £30.",
        [
            "Strada is a costly restaurant (more than £30) that isn't for children.",
            "Children are not allowed at Strada, which costs more than £30.",
        ],
    ),
    (
        "Zizzi serves Italian food.",
        ["Zizzi serves Italian food in the city centre.", "You can eat Italian food at Zizzi, in the city centre."],
    ),
    (
        "There is a coffee shop called Aromi with a 5 out of 5 rating in the riverside area.",
        ["Aromi is a coffee shop in the riverside area, rated 5 out of 5."],
    ),
]
ANSWERS = [answer for answer, _ in PAIRS]
REFERENCES = [texts for _, texts in PAIRS]
FIRST = [texts[:1] for texts in REFERENCES]
TEXT_METRICS = ("bleu", "bleu_e2e", "bleu_webnlg", "chrf", "chrf++", "nist", "rouge_l_e2e", "cider", "rouge1", "rougeL")


# --- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [  # as CoreNLP 3.4.1's PTBTokenizer and pycocoevalcap 1.2 give them
        (REFERENCES[0][1], "near the river there 's a family-friendly pub the old mill"),
        (REFERENCES[1][0], "strada is a costly restaurant -lrb- more than # 30 -rrb- that is n't for children"),
        (ANSWERS[1], "strada does n't allow children and costs more than # 30"),
        (REFERENCES[3][0], "aromi is a coffee shop in the riverside area rated 5 out of 5"),
    ],
)
def test_cocos_words_are_those_of_the_java_tokenizer(text: str, words: str) -> None:
    assert coco(text) == words.split()


def test_webnlgs_words_are_cut_at_every_mark() -> None:
    assert webnlg("Café Brazil's A-10, in 2001.") == "cafe brazil ' s a - 10 , in 2001 .".split()


@pytest.mark.parametrize(
    ("text", "plain"),
    [  # as Unidecode 1.4.0 gives them, which WebNLG's script runs; its words are cut afterwards
        ("Søren Łódź Straße İstanbul Ağrı", "soren lodz strasse istanbul agri"),
        ("Æsir œuvre Þór Ðuro Đorđe ħ ŋ", "aesir oeuvre thor duro dorde h ng"),
        ("1987–1990", "1987 - 1990"), ("one—two", "one - - two"), ("minus −2 → 3", "minus - 2 - 3"),
        ("‘a’ “b” „c” «d»", "' a ' \" b \" , , c \" < < d > >"), ("wait…", "wait . . ."),
        ("20 °C, 2½ µm, £5, €6", "20 degc , 2 1 / 2 um , ps5 , eur6"), ("Ǽ Ǿ ŀ", "ae o l"), ("Ələt", "@ l @ t"),
        ("x² ﬁve № 5", "x2 five no . 5"), ("Acme™ ©", "acme ( tm ) ( c )"), ("10 × 3 ÷ 2 · ½", "10 x 3 / 2 * 1 / 2"),
    ],
)  # fmt: skip
def test_webnlgs_words_are_folded_to_ascii_as_its_script_folds_them(text: str, plain: str) -> None:
    assert webnlg(text) == plain.split()


def test_webnlgs_references_are_cut_before_they_are_folded() -> None:
    """Its script folds an answer first but cuts a reference first: a mark that becomes two stays one word there."""
    assert webnlg_references([["one—two", "Ələt …"]]) == [["one -- two", "@l@t ..."]]


def test_an_answer_in_ascii_is_as_good_as_its_reference_with_foreign_letters() -> None:
    answers, references = ["the years 1987-1990 of soren"], [["the years 1987–1990 of Søren"]]
    assert metrics.score("bleu_webnlg", answers, references) == pytest.approx(100)
    assert metrics.score("ter_webnlg", answers, references) == 0.0


def test_latin_letters_and_marks_are_all_folded() -> None:
    """Every character of Latin-1 and Latin Extended-A, and so every one of the real references."""
    for number in (*range(0xA0, 0x180), 0x259, *range(0x2010, 0x2016), *range(0x2018, 0x201F), 0x2026, 0x20AC, 0x2212):
        assert "".join(webnlg(chr(number))).isascii(), hex(number)


def test_every_real_reference_of_webnlg_is_ascii_afterwards(shared: Path) -> None:
    tests = corpora.find("webnlg").read(str(shared / "data" / "webnlg2017")).tests
    texts = [row["target"] for row in tests["all"].rows]
    assert sum(not text.isascii() for text in texts) > 42
    assert all(" ".join(webnlg(text)).isascii() for text in texts)


# --- BLEU, NIST, TER, chrF ---------------------------------------------------------------------------------------


def test_e2es_bleu_does_not_tell_cases_apart() -> None:
    shouted = [answer.upper() for answer in ANSWERS]
    assert metrics.score("bleu_e2e", shouted, REFERENCES) == pytest.approx(
        metrics.score("bleu_e2e", ANSWERS, REFERENCES)
    )
    assert metrics.score("bleu", shouted, REFERENCES) < metrics.score("bleu", ANSWERS, REFERENCES)


def test_bleu_of_webnlg_is_its_formula_on_its_words() -> None:
    answer, texts = "a b-c d e", ["A b-c d f", "a b c d e", "x", "a b-c d e"]  # the fourth is not read
    # Words: a b - c d e. Of its n-grams only `- c d e` stands in none of the three; the closest length is 6, as long.
    expected = 100 * (6 / 6 * 5 / 5 * 4 / 4 * 2 / 3) ** 0.25
    assert metrics.score("bleu_webnlg", [answer], [texts]) == pytest.approx(expected)


def multi_bleu(answers: list[list[str]], references: list[list[list[str]]]) -> float:
    """multi-bleu.perl as it is written: the closest length, the shorter of two as close, clipped counts."""
    hits, totals, own, wanted = [0] * 4, [0] * 4, 0, 0
    for words, texts in zip(answers, references, strict=True):
        own += len(words)
        wanted += min((abs(len(words) - len(text)), len(text)) for text in texts)[1]
        for n in range(4):
            known: Counter[tuple[str, ...]] = Counter()
            for text in texts:
                known |= Counter(tuple(text[i : i + n + 1]) for i in range(len(text) - n))
            mine = Counter(tuple(words[i : i + n + 1]) for i in range(len(words) - n))
            hits[n] += (mine & known).total()
            totals[n] += mine.total()
    penalty = 1.0 if own >= wanted else math.exp(1 - wanted / own)
    return 100 * penalty * math.prod(h / t for h, t in zip(hits, totals, strict=True)) ** 0.25


@pytest.mark.parametrize("share", [1.0, 0.7, 0.45, 0.3])
def test_bleu_of_webnlg_takes_a_reference_that_is_not_there_for_an_empty_one(share: float) -> None:
    """Its script writes an empty line for it, of length 0; a short answer is nearer to that than to a whole text."""
    draw = random.Random(0)
    texts = [[draw.choices("abcdefgh", k=draw.randint(12, 20)) for _ in range(draw.randint(1, 4))] for _ in range(40)]
    answers = [one[0][: round(share * len(one[0]))] for one in texts]
    expected = multi_bleu(answers, [[*one, [], []][:3] for one in texts])
    found = metrics.score("bleu_webnlg", [" ".join(a) for a in answers], [[" ".join(t) for t in one] for one in texts])
    assert found == pytest.approx(expected)
    if share < 0.5:
        assert found > 1.2 * multi_bleu(answers, [one[:3] for one in texts])


def test_nist_of_one_reference_is_nltks() -> None:
    from nltk.translate.nist_score import corpus_nist
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    def cut(text: str) -> list[str]:
        return Tokenizer13a()(text.lower()).split()

    theirs = corpus_nist([[cut(texts[0])] for texts in FIRST], [cut(answer) for answer in ANSWERS], n=5)
    assert metrics.score("nist", ANSWERS, FIRST) == pytest.approx(theirs, rel=1e-9)


def test_nist_pools_the_references_of_a_text() -> None:
    # Reference words: a 2, b 2, c 1, d 1 of 6. Pairs: a b 1, b c 1, b d 1, a... the answer's are `a b` and `b c`.
    answer, texts = "a b c", ["a b c", "b d a"]
    one = math.log2(6 / 2) + math.log2(6 / 2) + math.log2(6 / 1)
    two = math.log2(2 / 1) + math.log2(2 / 1)  # `a b` and `b c`, each once where a and b are twice
    three = math.log2(1 / 1)
    assert metrics.score("nist", [answer], [texts]) == pytest.approx(one / 3 + two / 2 + three / 1)


def test_nist_expects_all_reference_words_over_the_mean_number_of_references() -> None:
    """E2E's own change of mteval: of references of 2 and 2 and of 8 words, 12 / (3 / 2) are expected, not 2 + 8."""
    answers, references = ["a b", "c d e f"], [["a b", "a c"], ["c d e f g h i k"]]
    enough = metrics.score("nist", [*answers[:1], "c d e f x y"], references)
    less = metrics.score("nist", answers, references)
    # Pairs: 6 of 8 words are three quarters. What matches is the same; x and y are two words more to divide by.
    words = 2 * math.log2(12 / 2) + 4 * math.log2(12 / 1)  # a and c stand twice among twelve
    pairs = 2 * math.log2(2 / 1)  # `a b` and `c d`
    beta = math.log(0.5) / math.log(1.5) ** 2
    expected = (words / 6 + pairs / 4) * math.exp(beta * math.log(6 / 8) ** 2)
    assert less == pytest.approx(expected)
    assert enough == pytest.approx(words / 8 + pairs / 6)


def test_an_empty_answer_takes_no_n_grams_from_the_others_in_nist() -> None:
    whole = "p q r s t u"
    alone = metrics.score("nist", [whole], [[whole]])
    beside = metrics.score("nist", [whole, ""], [[whole], [whole]])
    # Each word's information stays: twice as many words, twice as often. Half as long as expected.
    beta = math.log(0.5) / math.log(1.5) ** 2
    assert beside == pytest.approx(alone * math.exp(beta * math.log(1 / 2) ** 2))


@pytest.mark.parametrize(
    ("answer", "precisions"),
    [
        ("a b c x y", (3 / 5, 2 / 4, 1 / 3, 1 / 2 / 2)),  # no four: half a match
        ("a x b y c", (3 / 5, 1 / 2 / 4, 1 / 4 / 3, 1 / 8 / 2)),
        ("v w x y z", (1 / 2 / 5, 1 / 4 / 4, 1 / 8 / 3, 1 / 16 / 2)),
    ],
)
def test_orders_without_a_match_count_half_and_a_quarter_in_e2es_bleu(
    answer: str, precisions: tuple[float, ...]
) -> None:
    expected = 100 * math.prod(precisions) ** 0.25
    assert metrics.score("bleu_e2e", [answer], [["a b c d e"]]) == pytest.approx(expected)


def test_e2es_bleu_has_no_order_that_no_answer_is_long_enough_for() -> None:
    expected = 100 * math.exp(1 - 5 / 2) * (2 / 2 * 1 / 1) ** 0.25
    assert metrics.score("bleu_e2e", ["a b"], [["a b c d e"]]) == pytest.approx(expected)
    assert metrics.score("bleu_e2e", [""], [["a b c d e"]]) == 0


def test_nist_halves_a_text_two_thirds_as_long() -> None:
    whole, part = "p q r s t u", "p q r s"
    full = metrics.score("nist", [whole], [[whole]])
    assert full == pytest.approx(math.log2(6))  # every pair is certain after its first word
    assert metrics.score("nist", [part], [[whole]]) == pytest.approx(full / 2)


def test_ter_is_edits_over_length() -> None:
    assert metrics.score("ter", ["a b c x"], [["a b c d e"]]) == pytest.approx(100 * 2 / 5)  # one changed, one missing
    assert metrics.score("ter", ["d e a b c"], [["a b c d e"]]) == pytest.approx(100 * 1 / 5)  # one shift
    assert metrics.score("ter_webnlg", ["A-b."], [["a b ."]]) == pytest.approx(100 * 1 / 3)  # the hyphen is a word


def test_chrf_of_a_word_off_by_a_letter_is_its_formula() -> None:
    # abcd and abce: hits 3/4, 2/3, 1/2, 0/1 on both sides, so the F of every order is that fraction
    expected = 100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert metrics.score("chrf", ["abcd"], [["abce"]]) == pytest.approx(expected)


# --- COCO's ROUGE-L and CIDEr, METEOR ----------------------------------------------------------------------------


def test_e2es_rouge_l_is_that_of_pycocoevalcap() -> None:
    assert metrics.score("rouge_l_e2e", ANSWERS, REFERENCES) == pytest.approx(0.556160046164768)  # 1.2, Java words


def test_cider_is_that_of_pycocoevalcap() -> None:
    assert metrics.score("cider", ANSWERS, REFERENCES) == pytest.approx(3.548245969260479)  # 1.2, Java words


@pytest.mark.slow
def test_meteor_is_that_of_its_java_program() -> None:
    if (reason := metrics.missing("meteor_e2e")) is not None:
        pytest.skip(reason)
    assert metrics.score("meteor_e2e", ANSWERS, REFERENCES) == pytest.approx(0.4128492680250887)  # 1.5, pycocoevalcap


def test_meteor_without_java_or_its_jar_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Java" in str(metrics.missing("meteor_webnlg"))
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv(meteor.JAR_VARIABLE, str(tmp_path / "no.jar"))
    assert "no.jar, which is no file" in str(metrics.missing("meteor_e2e"))


def test_meteor_speaks_to_its_program_line_by_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The protocol, with a stand-in for Java that repeats what it reads; the program itself is tested where it is."""
    jar = tmp_path / "meteor.jar"
    jar.touch()
    (tmp_path / "java").write_text(
        '#!/bin/sh\nwhile read -r line; do\n  case "$line" in\n'
        '    SCORE*) echo "$line" >> log; echo stats;;\n'
        '    EVAL*) echo "$line" >> log; echo 0.1; echo 0.25;;\n  esac\ndone\n'
    )
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv(meteor.JAR_VARIABLE, str(jar))
    assert metrics.score("meteor_webnlg", ["A b."], [["a", "b", "c", "d"]]) == 0.25
    assert (tmp_path / "log").read_text() == "SCORE ||| a ||| b ||| c ||| a b .\nEVAL ||| stats\n"


# --- BERTScore ---------------------------------------------------------------------------------------------------


def test_bertscore_without_a_model_is_left_out_with_a_word() -> None:
    assert "none was given" in str(metrics.missing("bertscore"))


def test_bertscore_is_the_greedy_matching_of_a_models_states(tmp_path: Path) -> None:
    import tiny
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny.encoder(tmp_path)
    answers, texts = ["abc", "ada"], [["acd", "abd"], ["wxyz"]]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def states(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden, dim=-1)

    def f1(answer: str, text: str) -> float:
        cosines = states(answer) @ states(text).T  # a word may match a special token, which itself counts for nothing
        precision, recall = cosines.amax(1)[1:-1].mean(), cosines.amax(0)[1:-1].mean()
        return float(2 * precision * recall / (precision + recall))

    expected = sum(max(f1(a, text) for text in t) for a, t in zip(answers, texts, strict=True)) / 2
    assert metrics.score(f"bertscore:{folder}", answers, texts) == pytest.approx(expected, rel=1e-4)


def test_bertscore_of_an_empty_text_is_zero(tmp_path: Path) -> None:
    import tiny

    name = f"bertscore:{tiny.encoder(tmp_path)}"
    whole = metrics.score(name, ["abc", "ada"], [["acd"], ["ada"]])
    answers, texts = ["abc", "ada", " ", "x"], [["acd", ""], ["ada"], ["x"], [""]]
    assert metrics.score(name, answers, texts) == pytest.approx(whole / 2)
    assert metrics.score(name, [""], [["x"]]) == 0


def test_bertscore_begins_a_text_of_roberta_with_a_space(tmp_path: Path) -> None:
    """As bert-score asks of its tokenizer: the first word is then the same token as in the middle of a text."""
    pytest.importorskip("bert_score")
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    from prefixtune.metrics.bertscore import _scorer

    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(["the mill the mill"] * 9, 300, 1, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    learned.save_model(str(tmp_path))
    RobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)  # it names no length
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    RobertaModel(RobertaConfig(vocab_size=300, max_position_embeddings=20, **shape)).save_pretrained(tmp_path)
    from bert_score.utils import sent_encode

    read = _scorer(str(tmp_path), 1)._tokenizer
    first, second = read.convert_ids_to_tokens(sent_encode(read, "mill mill"))[1:-1]
    assert first == second == "Ġmill"
    assert 0 < metrics.score(f"bertscore:{tmp_path}", ["the mill " * 40], [["a mill"]]) <= 1  # cut at its 18 positions


# --- labels, entities, MultiRC -----------------------------------------------------------------------------------


def test_f1_is_of_the_class_that_is_named() -> None:
    gold, found = ["no", "yes", "yes", "no"], ["yes", "yes", "no", "no"]
    assert metrics.score("f1", found, gold) == pytest.approx(2 * 1 / (2 + 2))  # of `yes`
    assert metrics.score("f1:no", ["no", "no", "no", "no"], gold) == pytest.approx(2 * 2 / (2 + 4))
    with pytest.raises(ConfigError, match="no row has the label 'yess'.*did you mean 'yes'"):
        metrics.score("f1:yess", found, gold)
    with pytest.raises(ConfigError, match="f1 is of one class, but there are a, b, c"):
        metrics.score("f1", ["a", "b", "c"], ["a", "b", "c"])


def test_accuracy_and_macro_f1_of_cb() -> None:
    gold = ["entailment", "entailment", "neutral", "contradiction"]
    found = ["entailment", "neutral", "neutral", "contradiction"]
    assert metrics.score("accuracy", found, gold) == 0.75
    assert metrics.score("macro_f1", found, gold) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_an_entity_counts_when_it_is_whole() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["B-ORG", "B-PER"]]
    assert metrics.score("entity_precision", found, gold) == pytest.approx(2 / 4)
    assert metrics.score("entity_recall", found, gold) == pytest.approx(2 / 3)
    assert metrics.score("entity_f1", found, gold) == pytest.approx(2 * 2 / (4 + 3))
    bilou = [["B-PER", "L-PER", "O", "U-LOC"]]
    assert metrics.score("entity_f1:BILOU", bilou, bilou) == 1.0
    with pytest.raises(DataError, match="row 1 has 1 tags, its reference 2"):
        metrics.score("entity_f1", [found[0], ["O"]], gold)


@pytest.mark.parametrize("tag", ["000", "(23)", "-", "B", "B-", "PER", "PER-B", "b-PER", "X-PER", "O ", "", 1, None])
def test_a_tag_that_marks_no_entity_is_refused_and_not_scored(tag: Any) -> None:
    good, bad = ["O", "U-PER"], ["O", tag]
    for name in ("entity_f1", "entity_precision", "entity_recall", "entity_f1:BILOU"):
        for found, wanted, place in ((bad, good, "answer 1"), (good, bad, "reference 1"), (bad, bad, "answer 1")):
            complaint = f"{name.partition(':')[0]}: {place}: the tag {tag!r}; expected O, or a mark"
            with pytest.raises(DataError, match=re.escape(complaint)):
                metrics.score(name, [good, found], [good, wanted])


@pytest.mark.parametrize(
    ("scheme", "marks"),
    [("", "BIIB"), ("", "IIIB"), ("", "BIES"), (":IOB2", "BIIB"), (":BILOU", "BILU"), (":IOBES", "BIES")],
)
def test_every_mark_of_a_scheme_is_scored(scheme: str, marks: str) -> None:
    first, middle, last, lone = marks
    tags = [[f"{first}-a b", f"{middle}-a b", f"{last}-a b", "O", f"{lone}-work-of-art"]]
    assert metrics.score(f"entity_f1{scheme}", tags, tags) == 1.0


def test_multirc_counts_answers_and_whole_questions() -> None:
    marked = [("q1", "1"), ("q1", "0"), ("q2", "1"), ("q2", "1"), ("q3", "0")]
    found = ["1", "0", "1", "0", "0"]
    assert metrics.score("f1a:1", found, marked) == pytest.approx(2 * 2 / (3 + 2))
    assert metrics.score("f1a:1", ["0"], [("q1", "0")]) == 0.0
    assert metrics.score("exact_match", found, marked) == pytest.approx(2 / 3)  # q2 is half right, so wrong


# --- the registry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_a_better_answer_scores_higher(name: str) -> None:
    better = [texts[0] for texts in REFERENCES]
    assert metrics.score(name, better, REFERENCES) > metrics.score(name, ANSWERS, REFERENCES)


@pytest.mark.parametrize("name", [*TEXT_METRICS, "ter", "ter_webnlg"])
def test_an_empty_answer_is_scored_and_not_an_accident(name: str) -> None:
    with_empty = metrics.score(name, ["", *ANSWERS[1:]], REFERENCES)
    whole = metrics.score(name, ANSWERS, REFERENCES)
    assert with_empty > whole if name.startswith("ter") else with_empty < whole


def test_every_metric_says_what_it_needs_or_nothing() -> None:
    for name in metrics.names():
        reason = metrics.missing(name)
        assert reason is None or "install" in reason or "name one" in reason, name


def test_an_unknown_metric_is_named_with_its_near_miss() -> None:
    with pytest.raises(ConfigError, match="unknown metric 'rouge_l_e2'.*did you mean 'rouge_l_e2e'"):
        metrics.score("rouge_l_e2", ANSWERS, REFERENCES)


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert metrics.missing("nist") == "nist needs sacrebleu: pip install 'prefixtune[metrics]'"


@pytest.mark.parametrize(
    ("answers", "references", "complaint"),
    [
        (["a"], [["a"], ["b"]], "1 answers but 2 references"),
        ([], [], "no answers to score"),
        (["a"], ["a"], "answer 0 has one text for references; expected a list"),
        (["a"], [[]], "answer 0 has none for references"),
    ],
)
def test_what_does_not_fit_is_named(answers: list[str], references: list, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        metrics.score("bleu", answers, references)


def test_real_references_against_each_other_stand_where_people_stand(shared: Path) -> None:
    """E2E's own references, the first of each text against the rest: finite, and every metric in its range."""
    with open(shared / "data" / "e2e" / "testset_w_refs.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["mr"], []).append(row["ref"])
    several = [texts for texts in groups.values() if len(texts) > 1][:100]
    answers, references = [texts[0] for texts in several], [texts[1:] for texts in several]
    found, _ = metrics.measure(("bleu_e2e", "nist", "rouge_l_e2e", "cider"), answers, references)
    assert 20 < found["bleu_e2e"] < 80
    assert 4 < found["nist"] < 10
    assert 0.4 < found["rouge_l_e2e"] < 0.8
    assert 0.5 < found["cider"] < 4
