"""Results as tables, and the command that prints them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from m2kr.common.files import write_json
from m2kr.errors import run_command
from m2kr.results.__main__ import main
from m2kr.results.table import table
from tests.made_results import a_quantised_result as a_result


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
        ({"passage_images": "read"}, True, ["pictures of passages"]),
        ({"passage_images": "not read"}, False, []),
        ({"batch_effect": {"queries": 0.5}}, True, ["--batch-size"]),
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
    write_json(tmp_path / "m" / "OKVQA.json", a_result())
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
