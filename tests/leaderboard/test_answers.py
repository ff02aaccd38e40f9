"""`leaderboard.answers` and `leaderboard.answer_boards`: results of answering and published figures."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboard.answer_boards import answer_boards
from leaderboard.answers import (
    ANSWER_FIELDS,
    PUBLISHED_ANSWERS,
    PUBLISHED_COLUMNS,
    AnswerRecord,
    answer_figures,
    read_answer_records,
    read_published_answers,
)
from leaderboard.records import marks_of, read_records, usual_data
from leaderboard.validate import read_valid_answer
from m2kr.answer.metrics import harmonic_accuracy
from m2kr.common.files import sha256_of
from m2kr.errors import M2KRError

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec" / "published_results.csv"
NOTHING = read_published_answers().iloc[:0]
BEM = {"bem": {"checkpoint": "my-bem"}, "headline": ["BEM", "EM"]}


def marked(folder):
    records = read_answer_records(folder)
    reference = usual_data(records)
    return [AnswerRecord(record.path, record.result, marks_of(record.result, reference)) for record in records]


def boards_of(folder, published=NOTHING):
    answers = marked(folder)
    return answer_boards(answers, answer_figures(answers, published), read_records(folder))


# --- which files are refused ----------------------------------------------------------------------------------------


def test_a_possible_result_is_read(make_answer):
    assert read_valid_answer(make_answer())["reader"] == "my-reader"


def infoseek(**others):
    parts = {"accuracy": 0.25, "accuracy_unseen_question": 0.2, "accuracy_unseen_entity": 0.4}
    metrics = {**parts, "accuracy_harmonic": harmonic_accuracy(0.2, 0.4), **others}
    intervals = {name: [0.1, 0.5] for name in metrics}
    return {
        "task": "Infoseek",
        "metrics": metrics,
        "intervals": intervals,
        "headline": ["accuracy_harmonic", "accuracy"],
    }


def test_the_official_figure_of_infoseek_follows_from_its_parts(make_answer):
    assert read_valid_answer(make_answer(**infoseek()))["headline"][0] == "accuracy_harmonic"
    with pytest.raises(M2KRError, match="not the harmonic mean"):
        read_valid_answer(make_answer(**infoseek(accuracy_harmonic=0.3)))
    with pytest.raises(M2KRError, match="not the harmonic mean"):
        read_valid_answer(make_answer(**infoseek(accuracy_unseen_entity=0.39)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reader": ""}, "reader is ''"),
        ({"reader": "new\nline"}, "reader is"),
        ({"queries": 0}, "queries is 0"),
        ({"source": "web"}, "source is 'web'"),
        ({"combine": "vote"}, "combine is 'vote'"),
        ({"seconds": -1}, "seconds is -1"),
        ({"reader_settings": []}, "reader_settings is"),
        ({"intervals": {"VQA": [0.5, 0.4]}}, "intervals is"),
        ({"intervals": {"VQA": [0.5]}}, "intervals is"),
        ({"intervals": {}}, "lacks VQA or its interval"),
        ({"split": "train_passages"}, "no split"),
        ({"headline": ["EM"]}, "is compared by VQA"),
        ({"metrics": {"EM": 0.5}}, "lacks VQA"),
        ({"metrics": {"VQA": 1.5}}, "above 1"),
        ({"metrics": {"VQA": math.nan}}, "cannot be written again"),
        ({"task": "EVQA", "metrics": {"EM": 0.1234}}, "no count of 1,000 questions"),
        ({"task": "EVQA", "metrics": {"EM": 0.125, "BEM": 0.5}}, "settings of the model that judged it"),
        (
            {"task": "EVQA", "metrics": {"EM": 0.5, "BEM": 0.4}, "intervals": {"EM": [0, 1], "BEM": [0, 1]}, **BEM},
            "below the exact match",
        ),
        ({"bem": {"checkpoint": "my-bem"}}, "settings of the model that judged it"),
        ({"retriever": None}, "retriever and run contradict"),
        ({"source": "oracle", "retriever": "bm25"}, "retriever and run contradict"),
        ({"source": "none", "k": 5}, "k and the way of combining contradict"),
        ({"combine": None}, "k and the way of combining contradict"),
        ({"queries_without_passages": 2000}, "more questions"),
    ],
)
def test_what_is_refused(make_answer, change, says):
    with pytest.raises(M2KRError, match=says):
        read_valid_answer(make_answer(**change))


def test_a_task_without_an_answer_metric_is_refused(make_answer):
    path = make_answer()
    change(path, task="WIT")
    with pytest.raises(M2KRError, match="WIT has no answer metric"):
        read_valid_answer(path)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_is_read_or_refused_and_nothing_else(make_answer, data):
    path = make_answer()
    result = json.loads(path.read_text(encoding="utf-8"))
    name = data.draw(st.sampled_from(sorted(set(result) - {"task"})))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    result[name] = data.draw(scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=5), scalars))
    path.write_text(json.dumps(result), encoding="utf-8")
    with contextlib.suppress(M2KRError):
        read_valid_answer(path)


@pytest.fixture
def copied(answered, tmp_path):
    """A result file of real answers, with its predictions."""
    folder = tmp_path / "results" / "bm25" / "answers" / "seeker"
    shutil.copytree(answered / "bm25" / "answers" / "seeker", folder)
    return folder / "OKVQA.joint-3.json"


def change(path, **values):
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**result, **values}), encoding="utf-8")


def test_a_figure_that_its_predictions_do_not_give_is_refused(copied):
    read_valid_answer(copied)
    change(copied, metrics={"VQA": 0.99}, intervals={"VQA": [0.9, 1.0]})
    with pytest.raises(M2KRError, match=r"VQA is 0\.99 in the file, and 0\.\d+ in its predictions"):
        read_valid_answer(copied)
    copied.with_name("OKVQA.joint-3.predictions.jsonl").unlink()
    read_valid_answer(copied)  # there is nothing to compare with


@pytest.mark.parametrize("how", ["changed", "shortened", "twice", "no scores", "too high", "no JSON", "no object"])
def test_predictions_that_are_others_are_refused(copied, how):
    path = copied.with_name("OKVQA.joint-3.predictions.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    lines = {
        "changed": [json.dumps({**first, "answer": "other"}), *lines[1:]],
        "shortened": lines[1:],
        "twice": [lines[1], *lines[1:]],
        "no scores": [json.dumps({**first, "scores": None}), *lines[1:]],
        "too high": [json.dumps({**first, "scores": {"VQA": 2}}), *lines[1:]],
        "no JSON": ["{", *lines[1:]],
        "no object": ["[]", *lines[1:]],
    }[how]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if how != "changed":
        change(copied, predictions_sha256=sha256_of(path))
    says = {"changed": "sha256 differs", "shortened": "29 lines, for 30", "twice": "30 lines, for 30"}
    says |= {"no scores": "lacks the scores", "no object": "lacks the scores", "too high": "above 1"}
    with pytest.raises(M2KRError, match=says.get(how, "cannot be read")):
        read_valid_answer(copied)


def test_a_result_stands_once(make_answer, tmp_path):
    make_answer("a")
    make_answer("b")
    with pytest.raises(M2KRError, match="one and the same result"):
        read_answer_records(tmp_path / "results")


# --- figures and boards ---------------------------------------------------------------------------------------------


def test_readers_stand_together_from_no_passages_to_the_positive_ones(answered):
    records = read_answer_records(answered)
    found = [(record.result["task"], record.passages) for record in records]
    assert found == [
        ("OKVQA", "none"),
        ("OKVQA", "bm25"),
        ("OKVQA", "first-words"),
        ("OKVQA", "oracle"),
        ("EVQA", "none"),
        ("EVQA", "oracle"),
    ]


def test_the_figures_are_those_of_the_files_in_percent(answered):
    answers = marked(answered)
    table = answer_figures(answers, NOTHING)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == ANSWER_FIELDS
    for record, row in zip(answers, table.to_dict("records"), strict=True):
        name = record.result["headline"][0]
        assert row["metric"] == name
        assert row["value"] == 100 * record.result["metrics"][name]
        assert [row["low"], row["high"]] == [100 * end for end in record.result["intervals"][name]]
        assert row["marks"] == "made-up data; without images"


def test_the_positive_passages_are_no_rival(make_answer, tmp_path):
    for source, value in (("none", 0.3), ("run", 0.4), ("oracle", 0.9)):
        make_answer(source, source=source, metrics={"VQA": value}, intervals={"VQA": [0.2, 1.0]})
    (board,) = boards_of(tmp_path / "results")["OKVQA"]
    cells = {row.passages: row.cells[0] for row in board.rows}
    assert {name: cell.best for name, cell in cells.items()} == {"none": False, "bm25": True, "oracle": False}
    assert [row.oracle for row in board.rows] == [False, False, True]
    ranks = answer_figures(marked(tmp_path / "results"), NOTHING).set_index("passages")["rank"]
    assert ranks["bm25"] == 1
    assert ranks["none"] == 2
    assert pd.isna(ranks["oracle"])


def test_one_result_alone_is_not_the_best(make_answer, tmp_path):
    make_answer()
    (board,) = boards_of(tmp_path / "results")["OKVQA"]
    assert not board.rows[0].cells[0].best


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"synthetic": True}, "Runs: made-up data"),
        ({"limited": True}, "Runs: first queries only"),
        ({"nano": True, "seed": 1}, "Runs: small subset"),
        ({"ignored_inputs": ["image"]}, "Runs: without images"),
        ({"split": "valid"}, "Runs: other split"),
        ({"dataset": "another"}, "Runs: other data"),
    ],
)
def test_what_sets_a_result_apart_is_a_board_of_its_own(make_answer, tmp_path, change, title):
    make_answer("a", answers_key="1")
    make_answer("b", answers_key="2")
    make_answer("c", answers_key="3", **change)
    plain, apart = boards_of(tmp_path / "results")["OKVQA"]
    assert (plain.title, apart.title) == ("Runs", title)
    assert [len(plain.rows), len(apart.rows)] == [2, 1]


def test_exact_match_is_never_called_bem(make_answer, tmp_path):
    both = {"metrics": {"EM": 0.125, "BEM": 0.5}, "intervals": {"EM": [0, 1], "BEM": [0, 1]}, **BEM}
    make_answer("a", task="EVQA")
    (board,) = boards_of(tmp_path / "results")["EVQA"]
    assert board.measures == ["EM"]
    make_answer("b", task="EVQA", answers_key="judged", **both)
    (board,) = boards_of(tmp_path / "results")["EVQA"]
    assert board.measures == ["BEM", "EM"]
    assert [row.cells[0] is None for row in board.rows] == [True, False]
    assert "BEM was judged by my-bem" in board.note


def test_bem_of_two_judges_is_not_ranked_together(make_answer, tmp_path):
    for number, judge in enumerate(("one", "other")):
        metrics = {"EM": 0.125, "BEM": 0.5 + number / 10}
        intervals = {"EM": [0, 1], "BEM": [0, 1]}
        judged = {"bem": {"checkpoint": judge}, "headline": ["BEM", "EM"], "answers_key": judge}
        make_answer(judge, task="EVQA", metrics=metrics, intervals=intervals, **judged)
    (board,) = boards_of(tmp_path / "results")["EVQA"]
    assert [row.cells[0].best for row in board.rows] == [False, False]
    assert [row.cells[1].best for row in board.rows] == [True, True]
    assert "BEM of one judge" in board.note


def test_passages_lead_to_the_run_and_say_what_sets_it_apart(make, make_answer, tmp_path):
    make("bm25", model="bm25", ignored_inputs=["image"])
    make_answer()
    make_answer(name="OKVQA.joint-3.json", answers_key="other", run_sha256="1" * 64)
    answers, records = marked(tmp_path / "results"), read_records(tmp_path / "results")
    reference = usual_data(records)
    shown = [type(one)(one.path, one.result, one.slug, marks_of(one.result, reference)) for one in records]
    (board,) = answer_boards(answers, answer_figures(answers, NOTHING), shown)["OKVQA"]
    assert sorted((row.slug, row.aside) for row in board.rows) == [("", ""), ("bm25", "without images")]


def test_published_figures_stand_between_plain_runs_and_others(make_answer, tmp_path):
    make_answer("a")
    make_answer("b", limited=True, answers_key="other")
    found = boards_of(tmp_path / "results", read_published_answers())
    assert [board.key for board in found["OKVQA"]] == ["run", "published", "run-limited"]
    assert [board.key for board in found["EVQA"]] == ["published"]


# --- published figures ----------------------------------------------------------------------------------------------


def test_published_figures_are_not_ranked_and_say_how_they_are_known():
    published = read_published_answers()
    assert len(published) == 22
    table = answer_figures([], published)
    assert not table["ranked"].any()
    assert table["rank"].isna().all()
    theirs = published[published["reader"] == "RA-VQAv2"]
    assert set(theirs["status"]) == {"second-hand"}
    picked = theirs.set_index(["passages", "task"])
    assert picked.loc[("PreFLMR", "Infoseek"), "value"] == 30.65
    assert "conflict" in picked.loc[("PreFLMR", "Infoseek"), "caveat"]


@pytest.mark.skipif(not SPEC.is_file(), reason="the notes on published figures are not beside the checkout")
def test_every_published_figure_is_one_of_the_notes_and_none_is_left_out():
    metrics = {"VQA score (RAG)": "VQA", "accuracy (RAG)": "accuracy", "BEM (RAG)": "BEM"}
    with SPEC.open(newline="", encoding="utf-8") as file:
        notes = [row for row in csv.DictReader(file) if row["source"].startswith("MMKB-RAG")]
    known = {
        (row["task"].replace("E-VQA", "EVQA"), metrics[row["metric"]], float(row["value"]), row["note"].split()[0])
        for row in notes
    }
    status = {"second-hand": "SECOND-HAND", "copy": "VERIFIED"}
    published = read_published_answers().replace({"status": status})
    assert set(published[["task", "metric", "value", "status"]].itertuples(index=False, name=None)) == known
    assert len(published) == len(notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "WIT"}, "unknown task or measure"),
        ({"metric": "EM2"}, "unknown task or measure"),
        ({"value": "120"}, "no percentage"),
        ({"value": "much"}, "no percentage"),
        ({"status": "verified"}, "a status other than"),
        ({"source": ""}, "no reader, passages or source"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, says):
    row = dict(zip(PUBLISHED_COLUMNS, ("r", "none", "OKVQA", "VQA", "1.0", "s", "copy", ""), strict=True))
    path = tmp_path / "published.csv"
    path.write_text(",".join(PUBLISHED_COLUMNS) + "\n" + ",".join({**row, **change}.values()) + "\n", encoding="utf-8")
    with pytest.raises(M2KRError, match=says):
        read_published_answers(path)


def test_a_figure_stands_once(tmp_path):
    lines = PUBLISHED_ANSWERS.read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "published.csv"
    path.write_text("".join([*lines, lines[1]]), encoding="utf-8")
    with pytest.raises(M2KRError, match="twice"):
        read_published_answers(path)
