"""Rows and files that are not as they should be: what the original data sets have of them is read, the rest refused."""

from __future__ import annotations

import pytest

from prefixtune.corpora import wsc
from prefixtune.errors import DataError

# --- the spans of WSC --------------------------------------------------------------------------------------------


def marked(text: str, span: str, word: int) -> tuple[str, int]:
    """What is marked, and how many characters stand before it."""
    start, end = wsc.characters(text, span, word, "here")
    return text[start:end], start


@pytest.mark.parametrize(
    ("text", "span", "word", "before"),
    [
        ('Tom said "I am ill" to Bob.', "I", 2, 'Tom said "'),
        ('Ann told Eve ("he lied") that her hat was gone.', "he", 3, 'Ann told Eve ("'),
        ('The man said "it works" in its own time.', "it", 3, 'The man said "'),
        ("Grace was happy (she won) because sheep ran.", "she", 3, "Grace was happy ("),
        ("Ann (she is tall) saw Eve.", "she", 1, "Ann ("),
        ("In 1912 the _Ada_ sank.", "Ada", 3, "In 1912 the _"),
        ("Jane's aunt saw her.", "Jane", 0, ""),
        ("When her boy ran he fell.", "he", 3, "When her boy ran "),  # a word too few
        ("Because of hers he left.", "he", 2, "Because of hers "),
        ("It ran , then it sat.", "it", 5, "It ran , then "),  # a word too many
        ("So it sat , and it ran .", "it", 40, "So it sat , and "),  # beyond the last word
    ],
)
def test_a_span_is_whole_words_wherever_marks_stand_before_them(text: str, span: str, word: int, before: str) -> None:
    assert marked(text, span, word) == (span, len(before))


@pytest.mark.parametrize(
    ("text", "span", "word", "found"),
    [
        ("He typed \" red Fox Nine \" as told.", "red Fox\nNine", 3, "red Fox Nine"),  # as the official training file
        ("The old Dr. May Hill left.", "Dr.  May Hill ", 2, "Dr. May Hill"),
        ("I saw Jim yesterday.", "Jim.", 2, "Jim"),
        ("I saw him, then Jim.", "Jim.", 4, "Jim."),
        ("The tree fell on it.", "THE tree,", 0, "The tree"),
        ("Ada, and later Bo, said that they agreed.", "Ada and Bo", 0, "Ada, and later Bo"),
        ("First Ada , then Bo , and last Cy left.", "Ada, Bo, and Cy", 1, "Ada , then Bo , and last Cy"),
    ],
)
def test_spans_that_the_official_files_have_otherwise_than_the_text_are_found(
    text: str, span: str, word: int, found: str
) -> None:
    assert marked(text, span, word)[0] == found


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The cat sat.", "he"),
        ("The cat sat.", "dog"),
        ("The cat sat.", "."),
        ("The cat sat.", ""),
        ("The cat sat.", "sat cat"),
        ("", "cat"),
        ("Ada ran " + "and ran " * 20 + "to Bo.", "Ada and Bo"),  # words so far apart are no span
    ],
)
def test_a_span_that_the_text_does_not_have_is_refused(text: str, span: str) -> None:
    with pytest.raises(DataError, match="here: the span .* does not begin at any word of the text"):
        wsc.characters(text, span, 0, "here")
