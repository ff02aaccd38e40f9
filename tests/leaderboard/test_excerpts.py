"""`leaderboard.excerpts`: excerpts with the answers marked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leaderboard.excerpts import TextPart, excerpt
from m2kr.metrics import contains_answer

TEXT = st.text(alphabet="aAbB ßİΣς.", max_size=60)


def test_answers_are_marked_whatever_their_capitals():
    parts, found = excerpt("A Red fox and a red hen.", [" RED ", ""])
    assert found
    assert [part.text for part in parts if part.answer] == ["Red", "red"]
    assert "".join(part.text for part in parts) == "A Red fox and a red hen."


def test_answers_that_overlap_are_one():
    parts, _ = excerpt("the red fox", ["red f", "fox", "red"])
    assert [part for part in parts if part.answer] == [TextPart("red fox", True)]


def test_a_long_passage_is_cut_around_its_first_answer():
    text = "word " * 400 + "needle " + "word " * 400
    parts, found = excerpt(text, ["needle"])
    shown = "".join(part.text for part in parts)
    assert found
    assert TextPart("needle", True) in parts
    assert len(shown) < 600
    assert shown.startswith("… ")
    assert shown.endswith(" …")


def test_a_long_passage_without_an_answer_is_shown_from_its_beginning():
    parts, found = excerpt("word " * 400, ["needle"])
    assert not found
    assert parts[0].text.startswith("word word")


def test_a_letter_whose_small_form_is_two_keeps_the_marks_in_place():
    parts, _ = excerpt("İİİ red İ", ["red"])
    assert TextPart("red", True) in parts


@given(TEXT, st.lists(TEXT, max_size=3), st.integers(5, 80))
def test_what_is_marked_is_what_the_measure_counts(text, answers, length):
    parts, found = excerpt(text, answers, length)
    assert found == contains_answer(text, answers)
    shown = "".join(part.text for part in parts)
    assert len(shown) <= length + len("… ") + len(" …")
    assert shown.removeprefix("… ").removesuffix(" …") in text or shown in text
