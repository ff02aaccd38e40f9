"""Answer metrics: cases by hand, and equality with a second implementation, written from the official definitions."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.answer.metrics import (
    evqa_exact_match,
    harmonic_accuracy,
    infoseek_score,
    normalize_evqa,
    normalize_squad,
    normalize_vqa,
    parse_numbers,
    range_score,
    vqa_score,
)
from m2kr.errors import M2KRError

# --- a second implementation: character by character and word by word, without regular expressions ------------------

NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# Some of the official table, which has 114 live entries.
CONTRACTIONS = {"dont": "don't", "its": "its", "couldnt've": "couldn't've", "couldn'tve": "couldn't've"}
CONTRACTIONS |= {"oclock": "o'clock", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd", "yalld've": "yalld've"}
CONTRACTIONS |= {
    "hes": "he's",
    "ill": "ill",
    "whos": "who's",
    "were": "were",
    "well": "well",
    "y'alld've": "y'all'd've",
}
ARTICLES = {"a", "an", "the"}
DIGITS = "0123456789"


def plain_vqa(text: str) -> str:
    comma_number = any(
        text[place] == "," and text[place - 1] in DIGITS and text[place + 1] in DIGITS
        for place in range(1, len(text) - 1)
    )
    changed = text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        beside = (mark + " ") in text or (" " + mark) in text
        changed = ("" if beside or comma_number else " ").join(changed.split(mark))
    kept, removed = [], 0
    for place, letter in enumerate(changed):
        if letter == "." and changed[place + 1 : place + 2] not in {*DIGITS} and removed < 32:
            removed += 1
        else:
            kept.append(letter)
    small = "".join({"\u0130": "i"}.get(letter, letter.lower()) for letter in kept)
    words = [NUMBERS.get(word, word) for word in small.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def plain_vqa_score(said: str, answers: Sequence[str]) -> float:
    said, answers = tidy(said), [tidy(answer) for answer in answers]
    if any(answer != answers[0] for answer in answers):
        said, answers = plain_vqa(said), [plain_vqa(answer) for answer in answers]
    total = 0.0
    for own in range(len(answers)):
        others = answers[:own] + answers[own + 1 :]
        total += min(1, others.count(said) / 3)
    return total / len(answers)


def tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_words(text: str, dropped: set[str]) -> str:
    """Put a blank in the place of whole words; a word is letters, digits and "_"."""
    out, word = [], ""
    for letter in text + " ":
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        out.append(" " if word in dropped else word)
        out.append(letter)
        word = ""
    return "".join(out)


def plain_squad(text: str) -> str:
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(without_words(text, ARTICLES).split())


def plain_evqa(text: str) -> str:
    text = tidy(text.lower())
    if text.startswith("<extra_id_0> "):
        text = "".join(text.split("<extra_id_0> "))
    text = "".join(letter for letter in text if letter not in string.punctuation + "‘’´`_")
    words = without_words(text, ARTICLES).split()
    mapping = {**NUMBERS, "entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}
    return " ".join(CONTRACTIONS.get(word, word) for word in (mapping.get(word, word) for word in words))


def plain_iou(first: tuple[float, float], second: tuple[float, float]) -> float:
    overlap = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return overlap / (first[1] - first[0] + second[1] - second[0] - overlap + 2e-12)


ODD = [
    "twenty-one",
    "4.75-5.5",
    "50%",
    "1,000",
    "U.S.",
    "Paul's",
    "red/green",
    "owl",
    "Owl",
    "-",
    "?",
    "e.g.",
    "the-owl",
]
WORDS = st.sampled_from([*NUMBERS, *ARTICLES, *CONTRACTIONS, *ODD, "(bird)", "2.", ".5", "a", "_x_", "’tis", "café"])
PHRASES = st.one_of(
    st.lists(WORDS, max_size=5).map(" ".join),
    st.text(alphabet="ab 01.,-?!%'\"_/\n\t()the", max_size=14),
)

# --- OK-VQA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two Dogs", "2 dogs"),
        ("none", "0"),
        ("the owl", "owl"),
        ("A owl, an owl", "owl owl"),
        ("twenty-one", "twenty 1"),
        ("50%", "50%"),
        ("4.75-5.5", "4.75 5.5"),
        ("1,000", "1000"),
        ("1,000 red-brown", "1000 redbrown"),  # a comma between digits: no mark becomes a blank
        ("red/green", "red green"),
        ("red / green", "red green"),
        ("U.S.A.", "usa"),
        ("3.5 feet.", "3.5 feet"),
        ("dont", "don't"),
        ("couldn'tve couldnt've", "couldn't've couldn't've"),
        ("somebody'd", "somebodyd"),
        ("what?", "what"),
        ("", ""),
        ("the", ""),
        ("." * 33, "."),
        ("1,\u0661 a-b", "1 \u0661 b"),  # digits are those of ASCII, as in Python 2.7
        ("no.\u0661", "no\u0661"),
        ("ΟΔΟΣ İ", "οδοσ i"),  # letters are lower-cased one by one, as there
    ],
)
def test_vqa_normalisation(answer: str, expected: str) -> None:
    assert normalize_vqa(answer) == expected
    assert plain_vqa(answer) == expected


@given(PHRASES)
def test_vqa_normalisation_equals_the_plain_one(text: str) -> None:
    assert normalize_vqa(text) == plain_vqa(text)


def test_the_vqa_score_of_pairs_of_answers() -> None:
    answers = ["hammer", "hammer", "mallet", "mallet", "mallet", "mallet", "axe", "axe", "saw", "saw"]
    assert vqa_score("hammer", answers) == pytest.approx(0.6)
    assert vqa_score("The Mallet!", answers) == 1.0
    assert vqa_score("drill", answers) == 0.0
    assert vqa_score("", answers) == 0.0
    assert vqa_score("one", ["1", "1", "2"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)


def test_where_all_annotators_agree_nothing_is_normalised() -> None:
    assert vqa_score("owl", ["owl"] * 10) == 1.0
    assert vqa_score("owl\n", ["owl"] * 10) == 1.0
    assert vqa_score("Owl", ["owl"] * 10) == 0.0
    assert vqa_score("the owl", ["owl"] * 10) == 0.0
    assert vqa_score("the owl", [*["owl"] * 9, "bird"]) == 1.0
    with pytest.raises(M2KRError, match="needs the annotators' answers"):
        vqa_score("owl", [])


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=4), st.integers(1, 4))
def test_the_vqa_score_equals_the_plain_one(said: str, answers: list[str], times: int) -> None:
    given_answers = answers * times
    for candidate in (said, answers[0], answers[0].upper()):
        assert vqa_score(candidate, given_answers) == pytest.approx(plain_vqa_score(candidate, given_answers))


# --- InfoSeek -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.75-5.5", (4.75, 5.5)),
        ("between 9 and 10 metres", (9.0, 10.0)),
        ("10 to 9", 10.0),
        ("1,234.5 m", 1234.5),
        ("-5", -5.0),
        ("3 - -5", 3.0),
        ("50%", 50.0),
        ("1e3", 1000.0),
        ("1.2.3", (1.2, 3.0)),
        (".5", 5.0),
        ("5.", 5.0),
        ("1 2 3", (1.0, 2.0)),
        ("twenty-one", (0.0, 0.0)),
        ("", (0.0, 0.0)),
        ("-.5.5", (0.0, 0.0)),
        ("m²-7", 7.0),
    ],
)
def test_numbers_are_read_as_officially(text: str, expected: Any) -> None:
    assert parse_numbers(text) == expected


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("45", 1.0),
        ("55.0 m", 1.0),
        ("55.1", 0.0),
        ("46-54", 1.0),
        ("40-60", 1.0),  # IoU 0.5
        ("40-60.1", 0.0),
        ("54-46", 1.0),  # not ordered: the first number alone
        ("60-46", 0.0),
        ("", 0.0),
    ],
)
def test_ranges_are_compared_by_containment_and_iou(said: str, right: float) -> None:
    assert infoseek_score(said, [], (45.0, 55.0)) == right


def test_no_number_is_the_range_of_zero() -> None:
    assert infoseek_score("", [], (-1.0, 1.0)) == 1.0
    assert infoseek_score("nothing", ["nothing"], (0.5, 1.0)) == 0.0


ENDS = st.floats(-100, 100).map(lambda value: round(value, 2))


@given(ENDS, ENDS, ENDS, ENDS)
def test_range_scores_equal_the_plain_ones(first: float, second: float, third: float, fourth: float) -> None:
    said, accepted = (min(first, second), max(first, second)), (min(third, fourth), max(third, fourth))
    inside = accepted[0] <= said[0] and said[1] <= accepted[1]
    iou = plain_iou(said, accepted)
    if inside or abs(iou - 0.5) > 1e-9:  # nearer, the last digits of two ways to compute it decide
        assert range_score(said, accepted) == float(inside or iou >= 0.5)
    assert range_score(first, accepted) == float(accepted[0] <= first <= accepted[1])


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_written_is_read(first: float, second: float) -> None:
    low, high = f"{first:.2f}", f"{second:.2f}"
    expected = (float(low), float(high)) if float(low) <= float(high) else float(low)
    for separator in ("-", " - ", " to ", "–"):
        assert parse_numbers(f"about {low}{separator}{high} m") == expected


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3))
def test_strings_are_compared_as_squad_does(said: str, answers: list[str]) -> None:
    assert normalize_squad(said) == plain_squad(said)
    assert infoseek_score(said, answers) == float(plain_squad(said) in [plain_squad(answer) for answer in answers])
    assert infoseek_score(f"The {answers[-1]}!", answers) == 1.0


def test_a_time_or_string_is_right_if_any_answer_equals_it() -> None:
    assert infoseek_score("In 1889.", ["1888", "in 1889"]) == 1.0
    assert infoseek_score("", ["1889"]) == 0.0
    with pytest.raises(M2KRError, match="has neither"):
        infoseek_score("x", [])


def test_the_final_score_is_the_harmonic_mean() -> None:
    assert harmonic_accuracy(0.5, 0.25) == pytest.approx(1 / 3, abs=5e-5)
    assert harmonic_accuracy(0.2, 0.2) == pytest.approx(0.2)
    assert harmonic_accuracy(0.5, 0.0) == 0.0


# --- Encyclopedic-VQA -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<extra_id_0> The answer is two", "2"),
        ("the answer is: Two metres", "2 metres"),  # the colon goes first
        ("The owl's nest", "owls nest"),
        ("none", "0"),
        ("True", "yes"),
        ("contradiction", "no"),
        ("4.75", "475"),
        ("50%", "50"),
        ("twenty-one", "twentyone"),
        ("dont", "don't"),
        ("", ""),
    ],
)
def test_evqa_normalisation(answer: str, expected: str) -> None:
    assert normalize_evqa(answer) == expected


@given(PHRASES)
def test_evqa_normalisation_equals_the_plain_one(text: str) -> None:
    assert normalize_evqa(text) == plain_evqa(text)
    assert normalize_evqa(f"<extra_id_0> {text}") == plain_evqa(f"<extra_id_0> {text}")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("white, red", True),
        ("Red and the white", True),
        ("red & white & green", True),  # 2 of 3
        ("red", True),  # 1 of 2
        ("red, green", False),  # 1 of 3
        ("", False),
        ("red,,red", True),
    ],
)
def test_several_answers_are_compared_by_iou(said: str, right: bool) -> None:
    assert evqa_exact_match(said, "red&&white", multiple=True) is right


def test_an_empty_prediction_or_reference_never_matches() -> None:
    assert not evqa_exact_match("", "the")
    assert not evqa_exact_match("", "owl")
    assert not evqa_exact_match("", "the&&a", multiple=True)
    assert evqa_exact_match("the owl", "Owl!")


@given(
    st.lists(st.sampled_from(["red", "white", "two", "the sea", "a"]), max_size=4),
    st.lists(WORDS, min_size=1, max_size=3),
)
def test_the_iou_of_answers_equals_the_plain_one(said: list[str], reference: list[str]) -> None:
    text = ", ".join(said)
    wanted = {plain_evqa(part) for word in reference for part in word.split("&&")} - {""}
    got = {plain_evqa(part) for part in said} - {""}
    expected = bool(wanted) and 2 * len(wanted & got) >= len(wanted | got)
    assert evqa_exact_match(text, "&&".join(reference), multiple=True) is expected
