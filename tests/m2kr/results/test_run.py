"""TREC runs there and back."""

from __future__ import annotations

import gzip
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.results.run import Run


def a_run(scores: dict[str, dict[str, float]]) -> Run:
    return Run.from_dict(scores)


def assert_same(found: Run, wanted: Run) -> None:
    assert found.query_ids == wanted.query_ids
    assert found.passage_ids == wanted.passage_ids
    assert [scores.dtype for scores in found.scores] == [np.dtype(np.float32)] * len(wanted.scores)
    assert [scores.tobytes() for scores in found.scores] == [scores.tobytes() for scores in wanted.scores]


awkward = st.sampled_from(list(" %\t\n\r\x0b\x1c\x85\xa0\u2028\u3000é車%20+#\"'\ufeff\x00🦉ab0-_/"))
ids = st.text(awkward, min_size=1, max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6
)
floats = st.floats(width=32, allow_nan=False) | st.sampled_from([-np.inf, 1e-45, -0.0, 0.1, 1.0, 16777217.0])


@settings(max_examples=60)
@given(st.dictionaries(ids, st.dictionaries(ids, floats, min_size=1, max_size=8), max_size=5))
def test_a_run_is_the_same_after_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, dict[str, float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.trec.gz"
    run = a_run(scores)
    run.write_trec(path, "my model 100%")
    assert_same(Run.read_trec(path), run)
    first = path.read_bytes()
    Run.read_trec(path).write_trec(path, "my model 100%")
    assert path.read_bytes() == first


def test_a_run_is_written_as_trec_lines(tmp_path: Path) -> None:
    a_run({"a query": {"50%": 0.1, "p\t1": 2.0}, "q": {"p": -np.inf}}).write_trec(tmp_path / "run.gz", "org/my model")
    lines = gzip.decompress((tmp_path / "run.gz").read_bytes()).decode().splitlines()
    assert lines == [
        "a%20query Q0 p%091 1 2.0 org/my%20model",
        "a%20query Q0 50%25 2 0.1 org/my%20model",
        "q Q0 p 1 -inf org/my%20model",
    ]


def test_equal_runs_give_equal_bytes_whatever_their_file_is_called(tmp_path: Path) -> None:
    run = a_run({"q": {"a": 1.0, "b": 0.5}})
    run.write_trec(tmp_path / "one.trec.gz", "m")
    run.write_trec(tmp_path / "two.trec.gz", "m")
    assert (tmp_path / "one.trec.gz").read_bytes() == (tmp_path / "two.trec.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.trec.gz", "two.trec.gz"]


def test_a_run_is_readable_by_ir_measures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = {f"q-{q}": {f"p_{p}": float(np.float32(rng.normal())) for p in range(20)} for q in range(5)}
    a_run(scores).write_trec(tmp_path / "run.trec.gz", "m")
    (tmp_path / "run.trec").write_bytes(gzip.decompress((tmp_path / "run.trec.gz").read_bytes()))
    found: dict[str, dict[str, float]] = {}
    for row in ir_measures.read_trec_run(str(tmp_path / "run.trec")):
        found.setdefault(row.query_id, {})[row.doc_id] = float(np.float32(row.score))
    assert found == scores


def test_a_run_is_ordered_by_score_and_not_by_its_ranks_or_lines(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("q Q0 a 1 0.5 m\nq Q0 c 2 0.5 m\nr Q0 x 1 1 m\nq Q0 b 3 7 m\n")
    run = Run.read_trec(tmp_path / "run.trec")
    assert run.query_ids == ["q", "r"]
    assert run.passage_ids == [["b", "c", "a"], ["x"]]
    assert run.scores[0].tolist() == [7.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 1.0 m\nq Q0 b 2 0.5\n", "line 2: 5 fields where 6 are expected"),
        ("q Q0 a b 1 1.0 m\n", "line 1: 7 fields"),
        ("q Q0 a 1 high m\n", "line 1: the score is no number, but 'high'"),
        ("\n", "line 1: 0 fields"),
        ("q Q0 a 1 2 m\n\n\nq Q0 b 2 1 m\n", "line 2: an empty line"),
        ("q Q0 a 1 2 m\nq Q0 b 2 nan m\n", "line 2: the score is nan"),
        ("q Q0 a 1 2 m\nr Q0 a 1 2 m\nq Q0 %61 2 1 m\n", "line 3: the passage 'a' .* query 'q' a second time"),
        (b"q Q0 \xff 1 1.0 m\n", "line 1: the bytes are no UTF-8"),
        (b"q Q0 a 1 2 m\nq Q0 b 2 1 \xff\xfe\n", "line 2: the bytes are no UTF-8"),
    ],
)
def test_a_file_that_is_no_run_is_refused_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "run.trec").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(M2KRError, match=rf"run\.trec, {message}"):
        Run.read_trec(tmp_path / "run.trec")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("r Q0 a 2 1 m", "the query 'r' is not"),
        ("q Q0 c 2 1 m", "the passage 'c' is not"),
        ("q Q0 a%20b 2 1 m", "the passage 'a b' is not"),
        ("q Q0 a 2 -inf m", "the score is -inf, which is not finite"),
        ("q Q0 a 2 1e39 m", "the score is 1e39, which is not finite"),
    ],
)
def test_a_run_is_checked_against_what_is_known(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run.trec").write_text(f"q Q0 b 1 2 m\n{line}\n")
    with pytest.raises(M2KRError, match=rf"run\.trec, line 2: {message}"):
        Run.read_trec(tmp_path / "run.trec", queries={"q"}, passages={"a", "b"}, finite=True)


def test_marks_blanks_and_empty_last_lines_are_passed_over(tmp_path: Path) -> None:
    text = "\ufeffq\tQ0\ta\u00a0b  1   2.0 m\r\nq Q0 %20 2 1 m\nq Q0 100% 3 0 m\nq Q0 %41 4 -1 m\n\n \n"
    (tmp_path / "run.trec").write_bytes(text.encode())
    run = Run.read_trec(tmp_path / "run.trec", queries={"q"}, passages={"a\u00a0b", " ", "100%", "%41"})
    assert (run.query_ids, run.passage_ids) == (["q"], [["a\u00a0b", " ", "100%", "%41"]])
    assert Run.read_trec(tmp_path / "run.trec").passage_ids == [["a\u00a0b", " ", "100%", "A"]]


def scores_of(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((["q"], [], []), "1 queries, 0 lists of passages and 0 of scores"),
        ((["q"], [["a", "b"]], [scores_of(1)]), r"'q' has 2 passages, and scores of shape \(1,\)"),
        ((["q", "q"], [["a"], ["b"]], [scores_of(1), scores_of(1)]), "the query 'q' more than once"),
        (([1], [["a"]], [scores_of(1)]), "the query id 1, of type int"),
        ((["q"], [["a", 7]], [scores_of(2, 1)]), "the passage id 7, of type int"),
        ((["q"], [["a", "b"]], [scores_of(1, 2)]), "'q' has a higher score at the passage 'b'"),
        ((["q"], [["a", "b"]], [scores_of(1, np.nan)]), "query 'q' and passage 'b' is NaN"),
    ],
)
def test_a_run_whose_parts_do_not_fit_is_refused(parts: tuple[list, list, list], message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        Run(*parts)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "a run is None"),
        ([("q", "a")], r"a run is \[\('q', 'a'\)\]"),
        ({"q": ["a", "b"]}, r"the run of query 'q' is \['a', 'b'\]"),
        ({"q": {"a": "0.5"}}, "query 'q' and passage 'a' is '0.5', which is no number"),
        ({"q": {"a": 1.0, "b": None}}, "passage 'b' is None, which is no number"),
        ({"q": {1: 1.0, "b": 1.0}}, "the run of query 'q' holds the passage id 1, of type int"),
        ({3: {"b": 1.0}}, "the query id 3, of type int"),
    ],
)
def test_a_dict_that_is_no_run_is_refused(run: object, message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        Run.from_dict(run)  # type: ignore[arg-type]


def test_a_run_that_is_cut_off_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trec.gz"
    with pytest.raises(M2KRError, match="cannot be read as a run"):
        Run.read_trec(path)
    a_run({"q": {f"p{number}": float(number) for number in range(1000)}}).write_trec(path, "m")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no gzip at all", whole[:100] + b"\xff" * 100 + whole[200:]):
        path.write_bytes(content)
        with pytest.raises(M2KRError, match=r"run\.trec\.gz"):
            Run.read_trec(path)
