"""`m2kr.results`: TREC runs there and back, result files, the table."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError, run_command
from m2kr.results.record import (
    Result,
    Run,
    main,
    read_result,
    read_results,
    table,
    write_result,
)


def a_result(**changes: Any) -> Result:
    """A result with every key; ``changes`` replace some."""
    result: dict[str, Any] = {
        "format": 1,
        "model": "my-model",
        "model_settings": {"k1": 1.2},
        "task": "OKVQA",
        "split": "test",
        "metrics": {"Recall@5": 0.4321, "PRecall@5": 0.5, "MRR@10": 0.25, "nDCG@10": 0.125},
        "headline": ["Recall@5", "PRecall@5"],
        "queries": 5046,
        "passages": 114809,
        "queries_without_positive": 0,
        "dataset": "0123456789abcdef",
        "synthetic": False,
        "limited": False,
        "nano": False,
        "seed": None,
        "ignored_inputs": [],
        "instructions": True,
        "search": "exact",
        "top_k": 500,
        "device": "cpu",
        "dtype": "float32",
        "store_dtype": "int8",
        "quantisation": {"k": 5, "queries": 200, "recall": 0.5, "recall_int8": 0.495, "passages": 2000},
        "batch_size": 32,
        "hardware": "x86_64, 2 cores",
        "seconds": {"search": 1.5},
        "reused": [],
        "memory": {"search": 1 << 30},
        "peak_memory": 1 << 30,
        "versions": {"m2kr": "0.1.0"},
        "commit": None,
        "run_sha256": "0" * 64,
        "key": "fedcba9876543210",
    }
    return Result(**{**result, **changes})  # type: ignore[typeddict-item]


def a_run(scores: dict[str, dict[str, float]]) -> Run:
    return Run.from_dict(scores)


def assert_same(found: Run, wanted: Run) -> None:
    assert found.query_ids == wanted.query_ids
    assert found.passage_ids == wanted.passage_ids
    assert [scores.dtype for scores in found.scores] == [np.dtype(np.float32)] * len(wanted.scores)
    assert [scores.tobytes() for scores in found.scores] == [scores.tobytes() for scores in wanted.scores]


# --- runs -----------------------------------------------------------------------------------------------------------

awkward = st.sampled_from(list(" %\t\n\r\x0b\x1c\x85\xa0\u2028\u3000é車%20+#\"'\ufeff\x00🦉ab0-_/"))
ids = st.text(awkward, min_size=1, max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6
)
floats = st.floats(width=32, allow_nan=False) | st.sampled_from([-np.inf, 1e-45, -0.0, 0.1, 1.0, 16777217.0])


@settings(max_examples=150, deadline=None)
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
        ("q Q0 a 1 high m\n", "line 1: the score is no number"),
        ("\n", "line 1: 0 fields"),
        ("q Q0 a 1 nan m\n", "NaN"),
    ],
)
def test_a_file_that_is_no_run_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(M2KRError, match=message):
        Run.read_trec(tmp_path / "run.trec")


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


def test_bytes_that_are_no_utf8_are_refused_or_read_but_never_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_bytes(b"q Q0 \xff 1 1.0 m\n\xff\xfe\n")
    with pytest.raises(M2KRError, match="line 2"):
        Run.read_trec(tmp_path / "run.trec")


# --- result files ---------------------------------------------------------------------------------------------------


def test_a_result_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    result = a_result(model="modèle 車")
    write_result(tmp_path / "m" / "OKVQA.json", result)
    assert read_result(tmp_path / "m" / "OKVQA.json") == result
    first = (tmp_path / "m" / "OKVQA.json").read_bytes()
    write_result(tmp_path / "m" / "OKVQA.json", result)
    assert (tmp_path / "m" / "OKVQA.json").read_bytes() == first


@pytest.mark.parametrize("key", list(Result.__annotations__))
def test_a_result_that_lacks_a_key_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    result: dict[str, Any] = dict(a_result())
    del result[key]
    (tmp_path / "OKVQA.json").write_text(json.dumps(result))
    with pytest.raises(M2KRError, match=f"OKVQA.json is no result file: it lacks {key}"):
        read_result(tmp_path / "OKVQA.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "[1, 2]", "3", "null", '"format"', "{}", "\x00"])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "OKVQA.json").write_text(content)
    with pytest.raises(M2KRError, match=r"OKVQA\.json is no result file"):
        read_result(tmp_path / "OKVQA.json")


def test_a_result_of_a_later_format_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "OKVQA.json").write_text(json.dumps({"format": 2, "unheard of": True}))
    with pytest.raises(M2KRError, match="has format 2; this version reads 1"):
        read_result(tmp_path / "OKVQA.json")


def test_a_result_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "m" / "NEW.json", a_result(task="NEW"))
    with pytest.raises(M2KRError, match="'NEW', which this version does not know"):
        read_results(tmp_path)


def test_results_of_a_folder_come_by_task_split_and_model(tmp_path: Path) -> None:
    for model, task, split in [
        ("b", "EVQA", "test"),
        ("b", "WIT", "valid"),
        ("a", "MSMARCO", "test"),
        ("b", "MSMARCO", "test"),
    ]:
        write_result(tmp_path / model / f"{task}.json", a_result(model=model, task=task, split=split))
    write_result(tmp_path / "c" / "WIT.json", a_result(model="c", task="WIT", split="test"))
    (tmp_path / "b" / "WIT.run.trec.gz").write_bytes(b"")
    found = [(result["task"], result["split"], result["model"]) for result in read_results(tmp_path)]
    assert found == [
        ("WIT", "test", "c"),
        ("WIT", "valid", "b"),
        ("MSMARCO", "test", "a"),
        ("MSMARCO", "test", "b"),
        ("EVQA", "test", "b"),
    ]


# --- the table ------------------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_shows_the_headline_measures_in_percent() -> None:
    lines = rows(table([a_result()]))
    assert lines[0] == ["task", "split", "model", "queries", "passages", "R@K", "PR@K", "MRR@10", "nDCG@10"]
    assert set("".join(lines[1])) == {"-"}
    assert lines[2] == ["OKVQA", "test", "my-model", "5,046", "114,809", "43.2", "@5", "50.0", "@5", "25.0", "12.5"]
    assert len(lines) == 3


def test_a_measure_that_is_not_there_is_a_dash() -> None:
    metrics = {"Recall@5": 1.0, "MRR@10": 1.0, "nDCG@10": 1.0}
    assert rows(table([a_result(metrics=metrics)]))[2][5:] == ["100.0", "@5", "-", "100.0", "100.0"]
    assert rows(table([a_result(headline=["Recall@5"])]))[2][5:] == ["43.2", "@5", "-", "25.0", "12.5"]
    assert rows(table([a_result(headline=[])]))[2][5:7] == ["-", "-"]


def test_the_columns_of_a_table_line_up() -> None:
    text = table([a_result(), a_result(task="IGLUE", model="a-much-longer-name", queries=7, limited=True)])
    header, rule, first, second = text.splitlines()[:4]
    assert header.index("model") == first.index("my-model") == second.index("a-much-longer-name*")
    assert header.index("queries") + len("queries") == first.index("5,046") + 5 == second.index(" 7 ") + 2
    assert len(header) == len(rule) == len(first) == len(second)


@pytest.mark.parametrize(
    ("changes", "starred", "notes"),
    [
        ({}, False, []),
        ({"ignored_inputs": ["image"]}, True, ["--ignore-images"]),
        ({"limited": True}, True, ["--limit"]),
        ({"nano": True, "seed": 0}, True, ["--nano"]),
        ({"ignored_inputs": ["image"], "limited": True}, True, ["--ignore-images", "--limit"]),
        ({"synthetic": True}, False, ["made-up data"]),
    ],
)
def test_what_makes_a_score_not_comparable_is_said(changes: dict[str, Any], starred: bool, notes: list[str]) -> None:
    lines = table([a_result(**changes), a_result(model="plain")]).splitlines()
    assert ("my-model*" in lines[2]) is starred
    assert "plain*" not in lines[3]
    assert len(lines) == 4 + len(notes)
    assert all(note in line for note, line in zip(notes, lines[4:], strict=True))


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "m" / "OKVQA.json", a_result())
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == table([a_result()]) + "\n"


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_results_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert run_command(main, [str(tmp_path / folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "holds no result files. Make some with python -m m2kr.evaluate." in err


def test_the_program_ends_with_code_2_at_a_broken_result(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "OKVQA.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "m2kr.results", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
