"""`m2kr.export.challenge`: runs as the CSV that the challenge takes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export.__main__ import main
from m2kr.export.challenge import write_csv
from m2kr.results.run import Run


@pytest.fixture(scope="module")
def results(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    evaluate_task(BM25(), load_task("MSMARCO", built), folder / "bm25", TaskOptions(quiet=True))
    return folder


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("folder", [".", "bm25"])
def test_a_run_becomes_a_csv_of_five_ids(results, tmp_path, capsys, folder):
    assert main([str(results / folder), "--to", "challenge", "--out", str(tmp_path / "csv"), "--quiet"]) == 0
    (path,) = capsys.readouterr().out.split()
    assert path == str(tmp_path / "csv" / "bm25" / "MSMARCO.csv")
    head, *rows = lines(Path(path))
    run = Run.read_trec(results / "bm25" / "MSMARCO.run.trec.gz")
    assert head == ["question_id", "passage_id"]
    assert [row[0] for row in rows] == run.query_ids
    assert [json.loads(row[1]) for row in rows] == [passages[:5] for passages in run.passage_ids]
    assert main([str(results), "--to", "challenge", "--out", str(tmp_path / "csv"), "--quiet"]) == 0  # again


def test_ids_of_any_kind_come_back(tmp_path):
    ids = ["a,b", 'say "x"', "naïve", "line\nbreak", "=1+1"]
    run = Run.from_dict({'q"1,': {name: 9.0 - place for place, name in enumerate([*ids, "sixth"])}})
    write_csv(run, tmp_path / "a.csv")
    assert [json.loads(passages) for _, passages in lines(tmp_path / "a.csv")[1:]] == [ids]
    assert lines(tmp_path / "a.csv")[1][0] == 'q"1,'


def test_fewer_than_five_passages_are_refused_and_nothing_is_written(tmp_path):
    run = Run.from_dict({"q": {str(name): 1.0 for name in range(4)}})
    with pytest.raises(M2KRError, match=r"4 passages .* 'q'.* 5"):
        write_csv(run, tmp_path / "a.csv")
    with pytest.raises(M2KRError, match=r"0 passages .* 'other'"):
        write_csv(run, tmp_path / "a.csv", ["other"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "OKVQA"], "--tasks says nothing about result files"),
        (["--out", "taken"], "no export wrote"),
    ],
)
def test_what_cannot_be_exported_is_said(results, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    assert run_command(main, [str(results), "--to", "challenge", "--out", "csv", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_without_runs_and_a_run_that_was_changed(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_command(main, [str(tmp_path / "empty"), "--to", "challenge", "--out", str(tmp_path / "csv")]) == 2
    assert "holds no run" in capsys.readouterr().err
    changed = shutil.copytree(results, tmp_path / "changed") / "bm25" / "MSMARCO.run.trec.gz"
    Run.from_dict({"q": {str(name): 1.0 for name in range(5)}}).write_trec(changed, "x")
    assert run_command(main, [str(tmp_path / "changed"), "--to", "challenge", "--out", str(tmp_path / "csv")]) == 2
    assert "is not the run" in capsys.readouterr().err
    assert not list((tmp_path / "csv").rglob("*.csv"))
