"""`m2kr.evaluate`: what is not done again, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr.common.work import Note, Workplace
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode, task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.results.record import Result, read_results
from tests.m2kr.evaluating import (
    DIM,
    Constant,
    Multi,
    Seeing,
    Single,
    comparable,
    evaluated,
    kill,
    run_of,
    sorted_by_id,
    with_settings,
)

# --- what is not done again -----------------------------------------------------------------------------------------


def test_a_finished_task_is_not_run_again(okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    made = Single()
    assert evaluate_task(made, okvqa, tmp_path, TaskOptions(ignore_images=True)) == first
    assert "OKVQA: finished before, see" in capsys.readouterr().err
    assert not made.asked
    assert not made.read
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_finished_task_is_run_again_if_asked_for(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
    made = Single()
    evaluated(made, okvqa, tmp_path, rerun=True)
    assert len(made.read) == okvqa.passages.height
    assert run_of(tmp_path, "OKVQA") == run


@pytest.mark.parametrize("other", [False, True])
def test_a_result_whose_run_is_missing_or_another_is_made_again(okvqa: TaskData, tmp_path: Path, other: bool) -> None:
    evaluated(BM25(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
    (tmp_path / "OKVQA.run.trec.gz").unlink()
    if other:
        evaluated(Single(), okvqa, tmp_path / "other")
        (tmp_path / "OKVQA.run.trec.gz").write_bytes(run_of(tmp_path / "other", "OKVQA"))
    evaluated(BM25(), okvqa, tmp_path)
    assert run_of(tmp_path, "OKVQA") == run


def test_kept_embeddings_serve_other_evaluations(built: Path, tmp_path: Path) -> None:
    def done(name: str, data: TaskData, **options: Any) -> tuple[Single, Result]:
        made = Single()
        return made, evaluated(made, data, tmp_path, rerun=True, **options)

    data = load_task("OKVQA", built)
    made, first = done("first", data, keep_embeddings=True)
    assert first["reused"] == []
    assert sorted(path.name.split("-")[0] for path in (tmp_path / ".embeddings").iterdir()) == ["passages", "queries"]
    run = run_of(tmp_path, "OKVQA")
    made, again = done("again", data)
    assert again["reused"] == ["encode_passages", "encode_queries"]
    assert [again["seconds"][phase] for phase in again["reused"]] == [
        first["seconds"][phase] for phase in again["reused"]
    ]
    assert run_of(tmp_path, "OKVQA") == run
    made, limited = done("limited", load_task("OKVQA", built, limit=4), top_k=20)
    assert limited["reused"] == ["encode_passages"]
    assert (len(made.read), len(made.asked)) == (0, 4)
    made, other = done("other settings", data, dtype="float16")
    assert other["reused"] == []
    assert len(list((tmp_path / ".embeddings").iterdir())) == 2  # what nobody asked to keep is not


def test_results_of_two_splits_stand_side_by_side(built: Path, tmp_path: Path) -> None:
    for split in ("test", "valid"):
        evaluated(BM25(), load_task("OKVQA", built, split), tmp_path / "bm25")
    assert [(result["task"], result["split"]) for result in read_results(tmp_path)] == [
        ("OKVQA", "test"),
        ("OKVQA", "valid"),
    ]


@pytest.mark.parametrize("what", ["top_k", "dtype", "store_dtype", "settings", "instructions", "images", "limit"])
def test_a_result_of_other_settings_is_not_replaced_unless_asked_for(
    built: Path, world: Path, tmp_path: Path, what: str
) -> None:
    made = Seeing()
    options: dict[str, Any] = {"top_k": 20}
    data = load_task(
        "OKVQA",
        built,
        limit=5 if what == "limit" else None,
        images=world if what == "images" else None,
    )
    if what == "settings":
        made.settings = {"dim": DIM, "seed": 1}
    elif what == "instructions":
        made.reads_instructions = False
    else:
        changed: dict[str, Any] = {"top_k": 21, "dtype": "float16", "store_dtype": "float16"}
        options |= {what: changed[what]} if what in changed else {}
    before = evaluated(Seeing(), load_task("OKVQA", built), tmp_path, top_k=20)
    content = (tmp_path / "OKVQA.json").read_bytes()

    def again(**more: Any) -> Result:
        return evaluate_task(
            made, data, tmp_path, TaskOptions(quiet=True, ignore_images=what != "images", **options, **more)
        )

    with pytest.raises(M2KRError, match=r"OKVQA.json holds a result with other settings .*--rerun"):
        again()
    assert (tmp_path / "OKVQA.json").read_bytes() == content
    assert again(rerun=True)["key"] != before["key"]


@pytest.mark.parametrize("option", [{"batch_size": 3}, {"search_memory": 1 / 32}])
def test_what_changes_no_score_does_not_make_a_result_another(
    okvqa: TaskData, tmp_path: Path, option: dict[str, float]
) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    assert evaluated(Single(), okvqa, tmp_path, **option) == first


# --- kills ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Single, Multi])
@pytest.mark.parametrize(("stage", "finished"), [("read", 60), ("asked", 12)])
def test_after_a_kill_the_same_call_goes_on_and_ends_the_same(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, stage: str, finished: int
) -> None:
    monkeypatch.setattr(encode, "CHUNK", finished)
    whole = evaluated(make(), okvqa, tmp_path / "undisturbed")
    killed = make()
    killed.fail = lambda: len(getattr(killed, stage)) == finished
    with pytest.raises(ZeroDivisionError):
        evaluated(killed, okvqa, tmp_path / "killed")
    assert not (tmp_path / "killed" / "OKVQA.json").exists()
    again = make()
    result = evaluated(again, okvqa, tmp_path / "killed")
    assert killed.read + again.read == sorted_by_id(okvqa)
    assert killed.asked + again.asked == okvqa.queries["question"].to_list()
    assert run_of(tmp_path / "killed", "OKVQA") == run_of(tmp_path / "undisturbed", "OKVQA")
    assert result["metrics"] == whole["metrics"]
    assert result["key"] == whole["key"]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


def test_a_kill_before_the_result_is_written_encodes_nothing_again(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("m2kr.evaluate.task.write_record", kill)
        with pytest.raises(ZeroDivisionError):
            evaluated(Single(), okvqa, tmp_path)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert not made.read
    assert not made.asked


# Where it is killed, and whether the search is done again.
KILLS = [
    ("search", True),
    ("Run.write_trec", True),
    ("Note.save", True),
    ("score", False),
    ("write_record", False),
    ("Workplace.clear", False),
]


@pytest.mark.parametrize(
    ("make", "keep", "name", "repeated"),
    [
        *((Single, False, *kill) for kill in KILLS),
        *((Single, True, *kill) for kill in KILLS),
        *((BM25, False, *kill) for kill in KILLS[1:]),
    ],
)
def test_a_kill_in_any_phase_changes_neither_run_nor_result(
    msmarco: TaskData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    keep: bool,
    name: str,
    repeated: bool,
) -> None:
    evaluated(make(), msmarco, tmp_path / "whole", keep_embeddings=keep)

    save = Note.save

    def killed(*given: Any, **facts: Any) -> None:
        if name == "Note.save" and given[0].path.name != "searched.json":
            save(*given, **facts)
            return
        if name == "Run.write_trec":
            given[1].parent.mkdir(parents=True, exist_ok=True)
            given[1].with_name(f".{given[1].name}.tmp").write_bytes(b"half of it")
        kill()

    with monkeypatch.context() as patch:
        patch.setattr(f"m2kr.evaluate.task.{name}", killed)
        with pytest.raises(ZeroDivisionError):
            evaluated(make(), msmarco, tmp_path / "killed", keep_embeddings=keep)
    ranked: list[int] = []
    with monkeypatch.context() as patch:
        if make is BM25:
            rank = BM25.rank
            patch.setattr(BM25, "rank", lambda *given: ranked.append(1) or rank(*given))  # type: ignore[func-returns-value]
        again = make()
        evaluated(again, msmarco, tmp_path / "killed", keep_embeddings=keep)
    if make is BM25:
        assert bool(ranked) is repeated
    else:
        assert not again.read
        assert not again.asked
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")}
    assert {path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").rglob("*")} == files
    assert run_of(tmp_path / "whole", "MSMARCO") == run_of(tmp_path / "killed", "MSMARCO")
    assert comparable(tmp_path / "whole" / "MSMARCO.json") == comparable(tmp_path / "killed" / "MSMARCO.json")
    assert json.loads((tmp_path / "killed" / "MSMARCO.json").read_text())["reused"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from m2kr.dataset import load_task
from m2kr.evaluate import batch_effect, encode
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images import query_pictures

class Lengths:
    name, vectors, reads, reads_instructions, settings = "lengths", "single", frozenset({"text", "image"}), False, {}
    calls = 0
    def encode_query(self, inputs, batch_size=32):
        self.calls += 1
        if __name__ == "__main__" and self.calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[len(item["text"]), item["image"].getpixel((1, 1))[0]] for item in inputs], dtype=np.float32)
    def encode_document(self, inputs, batch_size=32):
        return np.array([[len(text), text.count("e")] for text in inputs], dtype=np.float32)

if __name__ == "__main__":
    batch_effect.SAMPLED, encode.IMAGE_CHUNK, query_pictures._WORTH_A_POOL = 0, 8, 1
    data = load_task("LLaVA", sys.argv[1], images=sys.argv[2])
    evaluate_task(Lengths(), data, Path(sys.argv[3]), TaskOptions(workers=2, quiet=True))
"""


def test_after_sigkill_the_same_evaluation_ends_the_same(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, "script.py", str(built), str(world), "killed"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(command, cwd=tmp_path, env=env, check=False).returncode == -signal.SIGKILL
    (work,) = (tmp_path / "killed").glob(".LLaVA.work-*")
    assert (work / "queries" / "000000000000.lengths.npy").exists()
    script: dict[str, Any] = {"__name__": "script"}
    exec(KILLED, script)
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 8)
    data = load_task("LLaVA", built, images=world)
    for folder in ("killed", "whole"):
        made = script["Lengths"]()
        evaluate_task(made, data, tmp_path / folder, TaskOptions(quiet=True))
        assert made.calls == (2 if folder == "killed" else 3)
    assert run_of(tmp_path / "killed", "LLaVA") == run_of(tmp_path / "whole", "LLaVA")
    assert comparable(tmp_path / "killed" / "LLaVA.json") == comparable(tmp_path / "whole" / "LLaVA.json")


@pytest.mark.parametrize(("phase", "largest"), [("passages", 1000), ("run", 266 * DIM * 4)])
def test_a_full_disk_is_said_and_the_work_goes_on_later(
    okvqa: TaskData, tmp_path: Path, phase: str, largest: int
) -> None:
    resource = pytest.importorskip("resource")
    evaluated(Single(), okvqa, tmp_path / "whole")
    assert okvqa.passages.height * DIM * 4 == 266 * DIM * 4 < len(run_of(tmp_path / "whole", "OKVQA"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))  # a file is cut there, as one is on a full disk
    try:
        with pytest.raises(M2KRError, match=r"could not be written: File too large\. Choose"):
            evaluated(Single(), okvqa, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "full" / "OKVQA.json").exists()
    again = Single()
    evaluated(again, okvqa, tmp_path / "full")
    assert bool(again.read) is (phase == "passages")
    assert run_of(tmp_path / "full", "OKVQA") == run_of(tmp_path / "whole", "OKVQA")


def test_what_a_kill_left_is_not_used_with_other_settings(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 60)
    killed = Single()
    killed.fail = lambda: len(killed.read) == 60
    with pytest.raises(ZeroDivisionError):
        evaluated(killed, okvqa, tmp_path)
    other = with_settings(Single(), seed=1)
    evaluated(other, okvqa, tmp_path)
    assert other.read == sorted_by_id(okvqa)


# --- side by side ---------------------------------------------------------------------------------------------------


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_while_a_result_is_made_another_evaluation_of_the_task_is_refused(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path / "alone")
    made, others = Single(), [with_settings(Single(), seed=1), Single()]

    def meanwhile() -> bool:
        for other in others:
            with pytest.raises(M2KRError, match=rf"OKVQA is being made by process {os.getpid()}, since"):
                evaluated(other, okvqa, tmp_path / "out", rerun=True)
            assert not other.read
        return False

    made.fail = meanwhile
    evaluated(made, okvqa, tmp_path / "out")
    assert made.read == sorted_by_id(okvqa)
    assert run_of(tmp_path / "out", "OKVQA") == run_of(tmp_path / "alone", "OKVQA")
    assert comparable(tmp_path / "out" / "OKVQA.json") == comparable(tmp_path / "alone" / "OKVQA.json")
    assert sorted(files_of(tmp_path / "out")) == ["OKVQA.json", "OKVQA.run.trec.gz"]


@pytest.mark.parametrize("late", [False, True])
def test_where_locks_do_not_work_a_result_that_came_meanwhile_stays(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(Workplace, "locked", lambda work: nullcontext())
    made, found = Constant(), []

    def meanwhile(*_: Any) -> bool:
        if not found:
            found.append({})
            evaluated(with_settings(Single(), seed=1), okvqa, tmp_path, rerun=True)
            found[0] = files_of(tmp_path)
        return False

    if late:  # after the run was written
        score = task.score
        monkeypatch.setattr(task, "score", lambda *given, **more: meanwhile() or score(*given, **more))
    else:
        made.fail = meanwhile
    with pytest.raises(M2KRError, match=r"OKVQA\.json holds a result with other settings"):
        evaluated(made, okvqa, tmp_path)
    assert {name: content for name, content in files_of(tmp_path).items() if name in found[0]} == found[0]


def test_a_finished_result_is_shown_while_another_process_makes_it_again(okvqa: TaskData, tmp_path: Path) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    again = Single()
    again.fail = lambda: evaluated(Single(), okvqa, tmp_path) != first  # and takes nothing from it
    evaluated(again, okvqa, tmp_path, rerun=True)
    assert again.read == sorted_by_id(okvqa)
