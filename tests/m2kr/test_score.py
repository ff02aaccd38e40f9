"""`m2kr.score`: runs made elsewhere become results, and what is wrong in them is refused by file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import numpy as np
import pytest
import ranx
from ir_measures import Success

from leaderboard.boards import run_boards
from leaderboard.figures import run_figures
from leaderboard.published import read_published
from leaderboard.records import read_records
from leaderboard.submission import check
from leaderboard.validate import read_valid_result
from m2kr.answer.evidence import run_passages
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.compare import compare_results
from m2kr.results.record import read_results, read_run
from m2kr.results.run import Run
from m2kr.results.table import table
from m2kr.score import main, score_run

Scores = dict[str, dict[str, float]]
KS = (1, 5, 10, 100)


def a_run(data: TaskData, depth: int = 120) -> Scores:
    """A run of every query, many of whose scores tie; its positives are among the first more often than not."""
    rng = np.random.default_rng(0)
    run: Scores = {}
    for query, positives in data.qrels.items():
        ids = [data.passages["passage_id"][int(row)] for row in rng.permutation(data.passages.height)[:depth]]
        run[query] = {name: float(rng.integers(40)) / 8 for name in [*ids, *positives]}
    return run


def test_what_a_run_made_elsewhere_did_with_pictures_of_passages_is_not_known(
    illustrated: Path, okvqa: TaskData, tmp_path: Path
) -> None:
    for data, use in ((load_task("OKVQA", illustrated), "unknown"), (okvqa, None)):
        path = in_form_of_pyserini(a_run(data), tmp_path / "run", data)
        assert score_run(path, data, "m", tmp_path / str(use), quiet=True)["passage_images"] == use


def in_form_of_ranx(run: Scores, path: Path, _: TaskData) -> Path:
    path = path.with_suffix(".trec")
    # Its own writer. A run of its own is made of dicts whose functions numba compiles in each process, for seconds.
    ranx.Run.save(SimpleNamespace(run=run, name="m", sorted=True), str(path))
    return path


def in_form_of_pyserini(run: Scores, path: Path, _: TaskData) -> Path:
    path = path.with_suffix(".txt")
    with path.open("w") as file:
        for query, found in run.items():
            for rank, (name, value) in enumerate(sorted(found.items(), key=lambda pair: -pair[1]), start=1):
                file.write(f"{query} Q0 {name} {rank} {value:.6f} Anserini\n")
    return path


def as_exported_here(run: Scores, path: Path, _: TaskData) -> Path:
    path = path.with_suffix(".trec.gz")
    Run.from_dict(run).write_trec(path, "a tag")
    return path


def with_tabs_gzipped(run: Scores, path: Path, _: TaskData) -> Path:
    path = path.with_suffix(".trec.gz")
    lines = [f"{query}\tQ0\t{name}  1 {value}\tm\r" for query, found in run.items() for name, value in found.items()]
    path.write_bytes(gzip.compress("\ufeff".encode() + "\n".join([*lines, "", ""]).encode()))
    return path


@pytest.fixture
def scored(okvqa: TaskData, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Score lines of a run, or a file, of OK-VQA."""

    def score(run: list[str] | Path, **options: Any) -> dict[str, Any]:
        path = run
        if isinstance(run, list):
            path = tmp_path / "run.trec"
            path.write_text("".join(f"{line}\n" for line in run))
        return dict(score_run(path, okvqa, "theirs", tmp_path / "results" / "theirs", quiet=True, **options))

    return score


@pytest.mark.parametrize("write", [in_form_of_ranx, in_form_of_pyserini, as_exported_here, with_tabs_gzipped])
def test_runs_of_other_tools_score_what_ir_measures_gives(
    okvqa: TaskData, tmp_path: Path, scored: Callable[..., dict[str, Any]], write: Callable[..., Path]
) -> None:
    run = a_run(okvqa)
    path = write(run, tmp_path / "theirs", okvqa)
    result = scored(path)
    judged = {query: dict.fromkeys(positives, 1) for query, positives in okvqa.qrels.items()}
    wanted = ir_measures.calc_aggregate([Success @ k for k in KS], judged, run)
    assert {f"Recall@{k}": wanted[Success @ k] for k in KS}.items() <= {
        name: pytest.approx(value, abs=1e-6) for name, value in result["metrics"].items()
    }.items()
    assert result["search"] == "elsewhere"
    assert (result["device"], result["dtype"], result["hardware"], result["batch_size"]) == (*["unknown"] * 3, None)
    assert (result["top_k"], result["queries_without_passages"]) == (max(map(len, run.values())), 0)
    kept = read_run(tmp_path / "results" / "theirs" / "OKVQA.run.trec.gz", result)  # type: ignore[arg-type]
    ours = Run.from_dict(run)
    assert (kept.query_ids, kept.passage_ids) == (ours.query_ids, ours.passage_ids)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{q} Q0 {p} 2 1.0 m", "passage .* a second time"),
        ("who Q0 {p} 2 1.0 m", "the query 'who' is not of the task"),
        ("{q} Q0 what 2 1.0 m", "the passage 'what' is not of the task"),
        ("{q} Q0 {o} 2 -inf m", "the score is -inf, which is not finite"),
        ("{q} Q0 {o} 2 NaN m", "the score is NaN, which is not finite"),
        ("{q} Q0 {o} 2 m", "5 fields where 6"),
        ("{q} Q0 {o} 2 high m", "the score is no number, but 'high'"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(
    okvqa: TaskData, tmp_path: Path, scored: Callable[..., dict[str, Any]], bad: str, message: str
) -> None:
    query, (one, other) = okvqa.queries["question_id"][0], okvqa.passages["passage_id"][:2]
    with pytest.raises(M2KRError, match=rf"run\.trec, line 2: .*{message}"):
        scored([f"{query} Q0 {one} 1 2.0 m", bad.format(q=query, p=one, o=other)])
    assert not (tmp_path / "results").exists()


def test_what_is_no_run_or_has_no_name_is_refused(
    okvqa: TaskData, tmp_path: Path, scored: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(M2KRError, match=r"run\.trec holds no line"):
        scored([])
    with pytest.raises(M2KRError, match="missing is no file"):
        scored(tmp_path / "missing")
    with pytest.raises(M2KRError, match="cannot be called ' '"):
        score_run(tmp_path / "run.trec", okvqa, " ", tmp_path)


def test_queries_that_the_run_lacks_score_zero_and_are_counted(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, positives = next((query, ids) for query, ids in okvqa.qrels.items() if ids)
    (tmp_path / "run.trec").write_text(f"{query} Q0 {positives[0]} 1 2.0 m\n")
    result = score_run(tmp_path / "run.trec", okvqa, "theirs", tmp_path / "out")
    lacking, of = okvqa.queries.height - 1, okvqa.queries.height
    assert f"lacks {lacking:,} of {of:,} queries, which score 0" in capsys.readouterr().err
    assert dict(result)["queries_without_passages"] == lacking
    assert (result["metrics"]["Recall@1"], result["top_k"]) == (pytest.approx(1 / of), 1)


@pytest.mark.parametrize(
    ("ranks", "scores", "other"),
    [
        (("1", "2", "3"), (3.0, 2.0, 1.0), False),
        (("3", "2", "1"), (3.0, 2.0, 1.0), True),
        (("1", "3", "2"), (3.0, 2.0, 1.0), True),
        (("1", "1", "1"), (2.0, 3.0, 1.0), False),  # as some tools write where they do not rank
        (("2", "1", "3"), (2.0, 2.0, 1.0), False),  # ties may stand in any order
        (("-", "Q", "0x"), (1.0, 2.0, 3.0), False),
        (("0", "10", "9"), (3.0, 1.0, 2.0), False),
    ],
)
def test_ranks_that_contradict_the_scores_are_said_with_the_rule_that_is_used(
    okvqa: TaskData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ranks: tuple[str, ...],
    scores: tuple[float, ...],
    other: bool,
) -> None:
    fine, query = okvqa.queries["question_id"][:2]
    names = okvqa.passages["passage_id"][:3]
    lines = [f"{fine} Q0 {names[0]} 1 1.0 m"]
    lines += [f"{query} Q0 {name} {rank} {value} m" for name, rank, value in zip(names, ranks, scores, strict=True)]
    (tmp_path / "run.trec").write_text("\n".join(lines))
    score_run(tmp_path / "run.trec", okvqa, "theirs", tmp_path / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "contradict the scores" in line]
    assert len(said) == other
    if other:
        assert all(fact in said[0] for fact in (str(tmp_path / "run.trec"), f"{query!r}", "1 of 2", "ordered by score"))
    (kept,) = Run.read_trec(tmp_path / "out" / "OKVQA.run.trec.gz").passage_ids[1:]
    assert kept == [name for _, name in sorted(zip(scores, names, strict=True), reverse=True)]


def test_positives_that_are_no_passages_are_counted_and_said(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, passage = okvqa.queries["question_id"][0], okvqa.passages["passage_id"][0]
    (tmp_path / "run.trec").write_text(f"{query} Q0 {passage} 1 2.0 m\n")
    data = replace(okvqa, qrels={**okvqa.qrels, query: ["gone"]})
    result = score_run(tmp_path / "run.trec", data, "theirs", tmp_path / "out")
    assert result["queries_with_absent_positive"] == 1
    assert "OKVQA: 1 of 30 queries have a positive that is not among" in capsys.readouterr().err


def test_a_finished_run_is_not_scored_again_and_another_needs_rerun(
    okvqa: TaskData, tmp_path: Path, scored: Callable[..., dict[str, Any]]
) -> None:
    query, (one, other, third) = okvqa.queries["question_id"][0], okvqa.passages["passage_id"][:3]
    lines = [f"{query} Q0 {name} 1 {value} m" for name, value in ((one, 1.0), (other, 3.0), (third, 2.0))]
    first = scored(lines, top_k=2)
    (tmp_path / "results" / "theirs" / ".OKVQA.lock").touch()  # as a kill at the very end leaves it
    assert scored(lines, top_k=2) == first
    assert sorted(path.name for path in (tmp_path / "results" / "theirs").iterdir()) == [
        *("OKVQA.json", "OKVQA.run.trec.gz")
    ]
    with pytest.raises(M2KRError, match="--rerun"):
        scored(lines, top_k=3)
    kept = tmp_path / "results" / "theirs" / "OKVQA.run.trec.gz"
    assert Run.read_trec(kept).passage_ids == [[other, third]]
    assert scored(lines, top_k=3, rerun=True)["top_k"] == 3
    with pytest.raises(M2KRError, match="is where the run of this result is written"):
        scored(kept)


def test_all_that_reads_results_takes_those_of_runs_made_elsewhere(
    built: Path, okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_form_of_pyserini(a_run(okvqa), tmp_path / "run", okvqa)
    results = tmp_path / "results"
    command = ["--data", str(built), "--task", "okvqa", "--run", str(path), "--out", str(results)]
    for name in ("org/theirs", "other"):
        assert run_command(main, [*command, "--name", name]) == 0
    assert "* the run was made elsewhere" in capsys.readouterr().out
    found = read_results(results)
    assert [result["model"] for result in found] == ["org/theirs", "other"]
    assert "org/theirs*" in table(found)
    file = results / "org--theirs" / "OKVQA.json"
    assert read_valid_result(file)["model"] == "org/theirs"
    assert check(file, str(built)) == []
    assert "org/theirs" in compare_results([file, results / "other"], str(built))
    assert run_passages(okvqa, file.with_name("OKVQA.run.trec.gz"), 5).retriever == "org/theirs"


def test_the_leaderboard_ranks_them_apart(okvqa: TaskData, tmp_path: Path) -> None:
    path = in_form_of_pyserini(a_run(okvqa), tmp_path / "run", okvqa)
    score_run(path, okvqa, "theirs", tmp_path / "results" / "theirs", quiet=True)
    records, _ = read_records(tmp_path / "results")
    runs = [record.marked({}) for record in records]
    assert runs[0].marks == ("made-up", "elsewhere")
    boards = {board.key: board for board in run_boards(runs, run_figures(runs, read_published()))}
    (row,) = boards["run-made-up-elsewhere"].rows
    assert row.name == "theirs"
    assert dict(row.facts)["Search"] == "elsewhere"
