"""`python -m m2kr.answer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr.answer.__main__ import main
from m2kr.answer.evidence import no_passages, oracle_passages
from m2kr.common import registry
from m2kr.dataset import load_task
from m2kr.errors import run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.results.__main__ import main as show_results
from m2kr.results.answer_record import read_answer_result, read_answer_results
from m2kr.results.record import read_results
from m2kr.results.table import answer_table, table
from m2kr.tasks import HUB_ID, HUB_IMAGES
from tests.hub_server import HubServer
from tests.m2kr.answer.readers import Blind, Seeker, answered, seeker
from tests.m2kr.evaluating import entry_points_of
from tests.m2kr.hub import client_of, pictures, published, stored_zip


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register the fakes as "seeker" and "blind"; return those that are made."""
    made: list[Any] = []

    points = entry_points_of({"seeker": Seeker, "blind": Blind}, made)
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return made


def test_the_command_answers_from_a_folder_of_runs(
    built: Path, results: Path, registered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--reader", "seeker", "--data", str(built), "--ignore-images", "--quiet", "--dtype", "float16"]
    assert main([*arguments, "--run-dir", str(results / "bm25"), "--k", "2", "--limit", "4"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[:4] for line in out.splitlines()[2:4]] == [
        ["OKVQA", "test", "seeker*", "bm25"],
        ["EVQA", "test", "seeker*", "bm25"],
    ]
    assert registered[0].given == {"checkpoint": None, "device": "cpu", "dtype": "float16"}
    assert len(registered[0].asked) == 16
    found = read_answer_results(results)
    assert [(result["task"], result["queries"], result["k"]) for result in found] == [("OKVQA", 4, 2), ("EVQA", 4, 2)]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("flag", "folder"), [("--oracle", "oracle"), ("--no-retrieval", "no-retrieval")])
def test_the_command_answers_without_a_run(built: Path, tmp_path: Path, flag: str, folder: str) -> None:
    arguments = ["--reader", "seeker", "--data", str(built), "--ignore-images", "--quiet", "--out", str(tmp_path)]
    assert main([*arguments, flag, "--combine", "concat", "--allow-missing"]) == 0
    found = read_answer_results(tmp_path)
    assert [result["task"] for result in found] == ["OKVQA", "Infoseek", "EVQA"]
    assert {path.name for path in tmp_path.iterdir()} == {folder}


def test_the_results_of_a_folder_are_two_tables(
    built: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_task("OKVQA", built)
    answered(seeker(data), data, no_passages(data), tmp_path / "alone" / "no-retrieval")
    assert show_results([str(tmp_path / "alone")]) == 0
    answers = answer_table(read_answer_results(tmp_path / "alone"))
    assert capsys.readouterr().out == answers + "\n"
    answered(seeker(data), data, no_passages(data), results / "no-retrieval")
    assert show_results([str(results)]) == 0
    assert capsys.readouterr().out == f"{table(read_results(results))}\n\n{answers}\n"
    answered(seeker(data), data, oracle_passages(data, 2), results / "a-first", k=2)
    assert [found["source"] for found in read_answer_results(results)] == ["none", "oracle"]


@pytest.mark.usefixtures("registered")
def test_a_limited_run_is_answered_as_far_as_it_goes(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "bm25"
    evaluate_task(
        BM25(), load_task("OKVQA", built, limit=5), out, TaskOptions(top_k=20, ignore_images=True, quiet=True)
    )
    arguments = ["--reader", "seeker", "--data", str(built), "--ignore-images", "--quiet"]
    assert main([*arguments, "--run", str(out / "OKVQA.run.trec.gz")]) == 0
    (result,) = read_answer_results(tmp_path)
    assert (result["queries"], result["limited"], result["queries_without_passages"]) == (5, True, 0)
    assert run_command(main, [*arguments, "--run", str(out / "OKVQA.run.trec.gz"), "--limit", "6"]) == 2


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "RESULTS/bm25/Infoseek.run.trec.gz"], "Infoseek.run.trec.gz is not there. Make it with python -m"),
        (["--run-dir", "RESULTS/bm25", "--tasks", "Infoseek"], "Infoseek.run.trec.gz is not there"),
        (["--run-dir", "RESULTS"], "holds no run of OKVQA, Infoseek, EVQA (test)"),
        (["--run-dir", "RESULTS/bm25", "--split", "valid"], "holds no run of OKVQA, Infoseek, EVQA (valid)"),
        (["--run", "RESULTS/bm25/OKVQA.run.trec.gz", "--tasks", "EVQA"], "--tasks does not name it, but EVQA"),
        (
            ["--run", "RESULTS/bm25/OKVQA.run.trec.gz", "--tasks", "OKVQA,EVQA"],
            "there is no --run of EVQA. Pass it, or leave the task out",
        ),
        (["--run", "RESULTS/bm25/OKVQA.run.trec.gz", "--k", "21"], "--k is 21, and"),
        (["--run", "RESULTS/bm25/OKVQA.run.trec.gz", "--data", "OTHER"], "is of the data"),
        (["--no-retrieval", "--tasks", "MSMARCO"], "MSMARCO has no answer metric"),
        (["--no-retrieval", "--k", "0"], "--k is 0; it has to be 1 or more"),
        (["--no-retrieval", "--batch-size", "0"], "--batch-size is 0"),
        (["--no-retrieval", "--workers", "-1"], "--workers is -1"),
        (["--no-retrieval", "--reader", "seekr"], "there is no reader 'seekr'. Did you mean seeker?"),
        (
            ["--no-retrieval", "--reader", "blind", "SEE"],
            "OKVQA asks with images (IQ2T) and the reader blind reads only",
        ),
        (["--no-retrieval", "--bem", "missing"], "--bem missing is no folder here"),
        (["--no-retrieval", "SEE"], "the queries of OKVQA have images. Name their folder with --images"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_one_line(
    built: Path,
    data: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(results.parent)
    if "OTHER" in arguments:
        (data / "manifest.json").unlink()  # so it has a fingerprint of its own
    blind = [] if "SEE" in arguments else ["--ignore-images"]
    places = {"RESULTS": str(results), "OTHER": str(data)}
    given = [value.replace("RESULTS", str(results)) for value in arguments if value != "SEE"]
    given = [places.get(value, value) for value in given]
    assert run_command(main, ["--reader", "seeker", "--data", str(built), *blind, *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(results.glob("*/answers"))


def test_with_nothing_here_tables_and_pictures_come_from_the_hub(
    built: Path,
    world: Path,
    tmp_path: Path,
    registered: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with HubServer() as hub, client_of(hub, tmp_path / "home"):
        published(hub, built, {"OKVQA/coco.zip": stored_zip(pictures(world, "coco"))}, ["OKVQA"])
        assert main(["--reader", "seeker", "--oracle", "--tasks", "OKVQA", "--limit", "3"]) == 0
        assert {path.split("/")[0] for path in hub.sent} == {"OKVQA_data", "OKVQA_passages", "OKVQA"}
    assert "OKVQA: fetching 3 of 3 pictures" in capsys.readouterr().err
    result = read_answer_result(Path("results", "oracle", "answers", "seeker", "OKVQA.joint-5.json"))
    assert result["data_source"].startswith(f"{HUB_ID}@")
    assert str(result["image_source"]).startswith(f"{HUB_IMAGES}@")
    assert all(asked.image is not None for asked in registered[0].asked)
