"""`python -m m2kr.evaluate --compare`: results set side by side, task by task."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from baselines.bm25 import BM25
from m2kr import dataset
from m2kr.dataset import load_task
from m2kr.errors import run_command
from m2kr.evaluate.__main__ import main
from m2kr.results.run import Run
from m2kr.significance import compare
from tests.m2kr.evaluating import Single, evaluated, run_of


@pytest.fixture
def compared(built: Path, tmp_path: Path) -> Path:
    """Results of two models on two tasks."""
    for task in ("MSMARCO", "OKVQA"):
        data = load_task(task, built)
        evaluated(BM25(), data, tmp_path / "bm25")
        evaluated(Single(), data, tmp_path / "single")
    return tmp_path


def comparison(built: Path, *paths: Path) -> list[str]:
    return ["--compare", *map(str, paths), "--data", str(built)]


def test_folders_are_compared_task_by_task(built: Path, compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(comparison(built, compared / "bm25", compared / "single")) == 0
    out = capsys.readouterr().out
    tables = out.split("\n\n")
    assert [table.splitlines()[0].split(":")[0] for table in tables[:-1]] == ["MSMARCO test", "OKVQA test"]
    assert "p of a two-sided paired" in tables[-1]
    for task, text in zip(("MSMARCO", "OKVQA"), tables[:-1], strict=True):
        data = load_task(task, built)
        runs = {name: Run.read_trec(compared / name / f"{task}.run.trec.gz") for name in ("bm25", "single")}
        texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
        wanted = compare(runs, data.qrels, answers=data.answers, passages=texts, measures=[data.task.metrics[0]])
        first, second = wanted.row(0, named=True), wanted.row(1, named=True)
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        shown = f"{100 * first['mean']:.1f} [{100 * first['low']:.1f}, {100 * first['high']:.1f}]"
        assert [data.task.metrics[0], "bm25", shown] in lines
        (line,) = [line for line in lines if line[:2] == [data.task.metrics[0], "fake-single"]]
        assert line[3].startswith(f"{100 * second['difference']:+.1f} [")
        assert line[4] == f"{second['p_value']:.4f}"
        assert [line[0] for line in lines[3::2]][:2] == [data.task.metrics[0], *data.task.metrics[1:], "MRR@10"][:2]
        assert "made-up data" in text
        assert ("images were not given" in text) is (task == "OKVQA")


@pytest.mark.parametrize("kind", ["json", "run.trec.gz"])
def test_single_results_are_compared_by_their_files(
    built: Path, compared: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    files = [compared / name / f"MSMARCO.{kind}" for name in ("bm25", "bm25", "single")]
    shutil.copytree(compared / "bm25", compared / "copy")
    files[1] = compared / "copy" / f"MSMARCO.{kind}"
    assert main(comparison(built, *files)) == 0
    out = capsys.readouterr().out
    assert out.count("MSMARCO test: ") == 1
    assert "OKVQA" not in out
    # Two of one name are told apart by their files, and do not differ.
    assert re.search(r"Recall@5 +\S*copy/MSMARCO.json .* \+0.0 \[\+0.0, \+0.0\] +1.0000", out)


def test_subsets_are_compared_with_equal_subsets(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, data in (
        ("limited", load_task("MSMARCO", built, limit=9)),
        ("nano", dataset.nano_subset(load_task("MSMARCO", built), seed=4, queries=9, passages=50)),
    ):
        evaluated(BM25(), data, tmp_path / folder / "one", top_k=40)
        evaluated(Single(), data, tmp_path / folder / "two")
    assert main(comparison(built, tmp_path / "limited" / "one", tmp_path / "limited" / "two")) == 0
    out = capsys.readouterr().out
    assert "MSMARCO test: 9 queries" in out
    assert "caution: the results have different numbers of passages kept for each query: 40, 500" in out
    assert "caution: with fewer than 30 queries" in out
    assert run_command(main, comparison(built, tmp_path / "limited" / "one", tmp_path / "nano" / "two")) == 2
    assert "share no task and split" in capsys.readouterr().err


def test_results_that_cannot_be_compared_are_refused(
    built: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, *paths: Path, data: Path = built) -> None:
        assert run_command(main, comparison(data, *paths)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.count("\n") == 1

    one, two = compared / "bm25" / "OKVQA.json", compared / "single" / "OKVQA.json"
    refused("needs two results or more", one)
    refused("share no task and split", one, compared / "single" / "MSMARCO.json")
    refused("holds no result files", one, tmp_path)
    refused("nowhere.json could not be read", one, tmp_path / "nowhere.json")
    evaluated(Single(), load_task("OKVQA", built, limit=3), compared / "short")
    refused("are of different queries (queries 30 and 3)", one, compared / "short" / "OKVQA.json")
    changed = json.loads(two.read_text()) | {"dataset": "another"}
    (compared / "changed").mkdir()
    (compared / "changed" / "OKVQA.json").write_text(json.dumps(changed))
    refused("are of different data (dataset ", one, compared / "changed")
    refused("Name the benchmark that was evaluated", compared / "changed", compared / "changed" / "OKVQA.json")
    two.with_name("OKVQA.run.trec.gz").write_bytes(run_of(compared / "bm25", "OKVQA"))
    refused("is not the run that", one, two)
    two.with_name("OKVQA.run.trec.gz").unlink()
    refused("OKVQA.run.trec.gz is not there", one, two)
