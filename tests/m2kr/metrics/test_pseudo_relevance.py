"""Which passages contain an answer, and what Pseudo Recall makes of it."""

from __future__ import annotations

import pytest

from m2kr.errors import M2KRError
from m2kr.metrics import contains_answer, score, score_queries


def test_pseudo_recall_is_given_only_where_there_are_answers_and_passages() -> None:
    run, qrels = {"q": {"a": 1.0}}, {"q": ["a"]}
    assert "PRecall@1" not in score(run, qrels, ks=[1])
    assert "PRecall@1" not in score(run, qrels, answers={"q": ["x"]}, ks=[1])
    assert "PRecall@1" not in score(run, qrels, passages={"a": "x"}, ks=[1])


def test_pseudo_recall_looks_for_the_answer_and_not_for_the_positive() -> None:
    passages = {"a": "It is blue.", "b": "It is GREEN."}
    found = score({"q": {"a": 2.0, "b": 1.0}}, {"q": ["a"]}, answers={"q": ["green"]}, passages=passages, ks=[1, 2])
    assert (found["Recall@1"], found["PRecall@1"], found["PRecall@2"]) == (1.0, 0.0, 1.0)


def test_a_query_without_answers_has_pseudo_recall_zero() -> None:
    run, qrels = {"q": {"a": 1.0}, "r": {"a": 1.0}}, {"q": ["a"], "r": ["a"]}
    table = score_queries(run, qrels, answers={"q": []}, passages={"a": "text"}, ks=[1])
    assert table["PRecall@1"].to_list() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("passage", "answers", "contained"),
    [
        ("The Bridge is 47 metres high.", ["47 METRES"], True),
        ("The Bridge is 47 metres high.", ["  bridge \n"], True),
        ("The Bridge is 47 metres high.", ["tower", "high"], True),
        ("The Bridge is 47 metres high.", ["7 met"], True),
        ("The Bridge is 47 metres high.", ["bridge  is"], False),
        ("The Bridge is 47 metres high.", [], False),
        ("The Bridge is 47 metres high.", ["", "   ", "\t"], False),
        ("", [""], False),
        ("Ein Fluß", ["FLUSS"], False),
        ("It is white, and red below.", ["Red&&white"], True),
        ("It is white, and red below.", ["red && green", "blue"], False),
        ("It is white, and red below.", ["red&&green", "white"], True),
        ("It is white, and red below.", ["&&", " && "], False),
        ("It is white, and red below.", ["red&&"], True),
    ],
)
def test_an_answer_is_contained_whatever_its_capitals_and_outer_blanks(
    passage: str, answers: list[str], contained: bool
) -> None:
    assert contains_answer(passage, answers) is contained
    found = score({"q": {"a": 1.0}}, {"q": ["a"]}, answers={"q": answers}, passages={"a": passage}, ks=[1])
    assert found["PRecall@1"] == float(contained)


def test_answers_that_are_one_text_are_refused() -> None:
    with pytest.raises(M2KRError, match="'green'"):
        contains_answer("It is green.", "green")


def test_a_retrieved_passage_of_unknown_text_is_an_error() -> None:
    with pytest.raises(M2KRError, match=r"'q' holds the passage 'b'"):
        score({"q": {"b": 1.0}}, {"q": ["a"]}, answers={"q": ["x"]}, passages={"a": "x"})
