"""Answers of a task scored by its metric, by groups of questions, and with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from m2kr.answer.score import intervals, score_answers
from m2kr.errors import M2KRError


def okvqa() -> pl.DataFrame:
    return pl.DataFrame({"question_id": ["1", "2"], "answers": [["owl", "owl", "bird"], ["two"] * 10]})


def infoseek(**changed: list[Any]) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "question_id": ["1", "2", "3", "4"],
        "answers": [["Rome", "roma"], ["1889"], [], ["Paris"]],
        "answer_eval": [["Rome"], ["1889", "1888"], [], []],
        "wikidata_range": [[], None, [45.0, 55.0], None],
        "question_type": ["String", "Time", "Numerical", None],
        "data_split": ["val_unseen_question", "val_unseen_entity", "val_unseen_entity", "val_unseen_entity"],
    }
    kinds = {"answers": pl.List(pl.String), "answer_eval": pl.List(pl.String), "wikidata_range": pl.List(pl.Float64)}
    return pl.DataFrame(columns | changed, schema_overrides=kinds)


def evqa() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "question_id": ["1", "2", "3"],
            "question": ["How tall?", "Which colours?", "Where?"],
            "answers": [["two metres", "2 m"], ["red&&white"], ["in the sea"]],
            "question_type": ["templated", "multi_answer", "automatic"],
        }
    )


def test_okvqa_is_scored_by_the_vqa_score() -> None:
    scores = score_answers("OKVQA", okvqa(), {"2": "two", "1": "The Owl"})
    assert scores.table["VQA"].to_list() == pytest.approx([(1 / 3 + 1 / 3 + 2 / 3) / 3, 1.0])
    assert scores.metrics == {"VQA": pytest.approx(scores.table["VQA"].mean())}
    assert scores.headline == ["VQA"]


def test_infoseek_is_scored_by_type_and_split() -> None:
    # What "answers" adds to "answer_eval" does not count, unless there is no "answer_eval".
    scores = score_answers("Infoseek", infoseek(), {"1": "the Rome", "2": "1900", "3": "46-50", "4": "paris"})
    assert scores.table["accuracy"].to_list() == [1.0, 0.0, 1.0, 1.0]
    assert scores.metrics == {
        "accuracy": 0.75,
        "accuracy_string": 1.0,
        "accuracy_time": 0.0,
        "accuracy_numerical": 1.0,
        "accuracy_unseen_question": 1.0,
        "accuracy_unseen_entity": pytest.approx(2 / 3),
        "accuracy_harmonic": pytest.approx(0.8, abs=1e-4),
    }
    assert scores.headline == ["accuracy_harmonic", "accuracy"]
    assert score_answers("Infoseek", infoseek(), dict.fromkeys("1234", "roma")).metrics["accuracy"] == 0.0


def test_without_both_splits_infoseek_has_no_harmonic_mean() -> None:
    scores = score_answers("Infoseek", infoseek(data_split=["train"] * 4), dict.fromkeys("1234", "Rome"))
    assert scores.headline == ["accuracy"]
    assert "accuracy_harmonic" not in scores.metrics
    assert not any(name.startswith("accuracy_unseen") for name in scores.metrics)


class Judge:
    """Says that what begins with the same letter is equivalent, and keeps what it was asked."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"checkpoint": "judge"}
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        triples = list(zip(questions, references, candidates, strict=True))
        self.asked += triples
        return [0.5 if said[:1] == reference[:1] else 0.49 for _, reference, said in triples]


def test_without_a_model_the_figure_of_evqa_is_em_and_with_one_bem() -> None:
    said = {"1": "Two metres", "2": "rose", "3": "ocean"}
    alone = score_answers("EVQA", evqa(), said)
    assert (alone.metrics, alone.headline) == ({"EM": pytest.approx(1 / 3)}, ["EM"])
    judge = Judge()
    scores = score_answers("EVQA", evqa(), said, bem=judge)
    assert scores.headline == ["BEM", "EM"]
    assert scores.metrics == {"EM": pytest.approx(1 / 3), "BEM": pytest.approx(2 / 3)}
    # The model is not asked what matches exactly, and gets the list of a question for several things with commas.
    assert judge.asked == [("Which colours?", "red,white", "rose"), ("Where?", "in the sea", "ocean")]
    assert score_answers("EVQA", evqa(), {"1": "2 m", "2": "red", "3": "sea in"}, bem=Judge()).metrics["EM"] == 2 / 3


@pytest.mark.parametrize(
    ("task", "queries", "message"),
    [
        ("MSMARCO", okvqa(), "MSMARCO has no answer metric. Those that have one are OKVQA, Infoseek, EVQA"),
        ("OKVQA", okvqa().with_columns(question_id=pl.Series(["1", "7"])), "1 of 2 have none, the first is 7"),
        ("OKVQA", okvqa().with_columns(answers=pl.Series([["x"], []])), "question 2 of OKVQA has no answers"),
        ("Infoseek", infoseek(wikidata_range=[[], [], [4.0], []]), "question 3 of Infoseek is numerical and has no"),
        ("Infoseek", infoseek(answers=[["x"], ["x"], [], []]), "question 4 of Infoseek has no accepted answers"),
        ("EVQA", evqa().with_columns(question_type=pl.lit("odd")), "question 1 of EVQA is of the type 'odd'"),
        ("EVQA", evqa().with_columns(answers=pl.Series([["x"], ["x"], [""]])), "question 3 of EVQA has no answers"),
    ],
)
def test_what_cannot_be_scored_is_said(task: str, queries: pl.DataFrame, message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        score_answers(task, queries, dict.fromkeys("1234", "x"))


def test_intervals_hold_the_value_and_are_repeatable() -> None:
    said = {"1": "Rome", "2": "1900", "3": "46-50", "4": "paris"}
    scores = score_answers("Infoseek", infoseek(), said)
    found = intervals(scores, resamples=500)
    assert found == intervals(scores, resamples=500)
    assert set(found) == set(scores.metrics)
    assert all(low <= scores.metrics[name] <= high for name, (low, high) in found.items())
    assert found["accuracy_time"] == [0.0, 0.0]
    assert found["accuracy"][0] < 0.75 < found["accuracy"][1]


def test_the_synthetic_world_is_answered_rightly_by_its_own_answers(built: Path) -> None:
    for task, measure in (("OKVQA", "VQA"), ("Infoseek", "accuracy_harmonic"), ("EVQA", "EM")):
        queries = pl.read_parquet(built / f"{task}_data" / "test-*.parquet")
        gold = dict(queries.select("question_id", "gold_answer").iter_rows())
        right = score_answers(task, queries, gold)
        assert right.headline[0] == measure
        assert right.metrics[measure] > 0.9
        assert score_answers(task, queries, dict.fromkeys(gold, "nothing of that kind")).metrics[measure] == 0.0


# --- the equivalence model ------------------------------------------------------------------------------------------
