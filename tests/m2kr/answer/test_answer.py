"""`m2kr.answer`: from a reader and passages to predictions and a result, and the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.bm25 import BM25
from m2kr.answer import metrics as answers
from m2kr.answer import task
from m2kr.answer.__main__ import main
from m2kr.answer.evidence import no_passages, oracle_passages, run_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.common import registry
from m2kr.common.files import sha256_of
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.reader import Answer, ReaderInput
from m2kr.results.__main__ import main as show_results
from m2kr.results.answer_record import AnswerResult, read_answer_result, read_answer_results
from m2kr.results.record import read_results
from m2kr.results.table import answer_table, table
from m2kr.significance import bootstrap_means
from m2kr.tasks import HUB_ID, HUB_IMAGES
from tests.hub_server import HubServer
from tests.m2kr.evaluating import entry_points_of, kill
from tests.m2kr.hub import client_of, pictures, published, stored_zip


class Seeker:
    """Knows the answers, and gives one that stands in its passages; else it says that it does not know."""

    def __init__(self, known: dict[str, list[str]] | None = None, **given: Any) -> None:
        self.name, self.given = type(self).__name__.lower(), given
        self.reads = frozenset({"text", "image"})
        self.settings: dict[str, Any] = {"prompt": "what?"}
        self.known = known or {}
        self.asked: list[ReaderInput] = []

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        self.asked += asked
        return [self.say(item) for item in asked]

    def say(self, asked: ReaderInput) -> Answer:
        text = " ".join(asked.passages).lower()
        found = [word for word in self.known.get(asked.question, ()) if word.lower() in text]
        return Answer(found[0], -0.1) if found else Answer("unknown", -0.5)


class Blind(Seeker):
    def __init__(self, known: dict[str, list[str]] | None = None, **given: Any) -> None:
        super().__init__(known, **given)
        self.reads = frozenset({"text"})


def seeker(data: TaskData) -> Seeker:
    assert data.answers is not None
    return Seeker(dict(zip(data.queries["question"], data.answers.values(), strict=True)))


def answered(made: Any, data: TaskData, evidence: Any, out: Path, bem: Any = None, **options: Any) -> AnswerResult:
    return answer_task(made, data, evidence, out, AnswerTaskOptions(ignore_images=True, quiet=True, **options), bem=bem)


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_result_has_every_key_and_stands_beside_the_retrieval(okvqa: TaskData, results: Path) -> None:
    made, out = seeker(okvqa), results / "bm25"
    result = answered(made, okvqa, run_passages(okvqa, out / "OKVQA.run.trec.gz", 3), out, k=3, batch_size=4)
    folder = out / "answers" / "seeker"
    assert list(result) == list(AnswerResult.__annotations__)
    assert read_answer_result(folder / "OKVQA.joint-3.json") == result
    assert sorted(path.name for path in folder.iterdir()) == ["OKVQA.joint-3.json", "OKVQA.joint-3.predictions.jsonl"]
    wanted = {
        "reader": "seeker",
        "reader_settings": {"prompt": "what?"},
        "source": "run",
        "retriever": "bm25",
        "run_sha256": sha256_of(out / "OKVQA.run.trec.gz"),
        "k": 3,
        "combine": "joint",
        "task": "OKVQA",
        "split": "test",
        "headline": ["VQA"],
        "bem": None,
        "queries": 30,
        "queries_without_passages": 0,
        "dataset": okvqa.fingerprint,
        "synthetic": True,
        "limited": False,
        "ignored_inputs": ["image"],
        "batch_size": 4,
        "predictions_sha256": sha256_of(folder / "OKVQA.joint-3.predictions.jsonl"),
    }
    assert {name: result[name] for name in wanted} == wanted  # type: ignore[literal-required]
    # Results of retrieval are still read from the same folder, and those of answering by themselves.
    assert {found["task"] for found in read_results(results)} == {"OKVQA", "EVQA"}
    assert read_answer_results(results) == [result]


def test_predictions_hold_the_score_of_every_question(okvqa: TaskData, results: Path) -> None:
    made, out = seeker(okvqa), results / "bm25"
    result = answered(made, okvqa, run_passages(okvqa, out / "OKVQA.run.trec.gz", 3), out, k=3)
    path = out / "answers" / "seeker" / "OKVQA.joint-3.predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert okvqa.answers is not None
    assert [line["question_id"] for line in lines] == list(okvqa.answers)
    scores = [answers.vqa_score(line["answer"], okvqa.answers[line["question_id"]]) for line in lines]
    assert [line["scores"]["VQA"] for line in lines] == scores
    assert result["metrics"]["VQA"] == pytest.approx(sum(scores) / 30)
    assert 0 < result["metrics"]["VQA"] < 1
    low, high = result["intervals"]["VQA"]
    import numpy as np

    drawn = bootstrap_means(np.array(scores)[:, None], 10_000, 0)
    assert [low, high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist())


def test_passages_help_a_reader_that_reads_them(okvqa: TaskData, results: Path, tmp_path: Path) -> None:
    made = seeker(okvqa)
    run = run_passages(okvqa, results / "bm25" / "OKVQA.run.trec.gz", 5)
    scores = {
        "none": answered(made, okvqa, no_passages(okvqa), tmp_path / "no-retrieval"),
        "run": answered(made, okvqa, run, tmp_path / "bm25"),
        "oracle": answered(made, okvqa, oracle_passages(okvqa, 5), tmp_path / "oracle"),
    }
    assert scores["none"]["metrics"]["VQA"] == 0.0
    assert 0 < scores["run"]["metrics"]["VQA"] < scores["oracle"]["metrics"]["VQA"]
    assert (scores["none"]["k"], scores["none"]["combine"]) == (0, None)
    assert scores["none"]["queries_without_passages"] == 30
    assert (tmp_path / "no-retrieval" / "answers" / "seeker" / "OKVQA.json").is_file()
    table = answer_table(list(scores.values()))
    assert [line.split()[3] for line in table.splitlines()[2:5]] == ["none", "bm25", "oracle"]
    assert "0.0 [0.0, 0.0]" in table.splitlines()[2]
    assert "seeker*" in table
    assert "made-up data" in table


def test_a_finished_task_is_not_answered_again(okvqa: TaskData, tmp_path: Path) -> None:
    first = answered(seeker(okvqa), okvqa, oracle_passages(okvqa, 2), tmp_path, k=2)
    again = seeker(okvqa)
    assert answered(again, okvqa, oracle_passages(okvqa, 2), tmp_path, k=2) == first
    assert not again.asked
    rerun = answered(again, okvqa, oracle_passages(okvqa, 2), tmp_path, k=2, rerun=True)
    assert again.asked
    assert rerun["predictions_sha256"] == first["predictions_sha256"]


def test_a_result_with_other_settings_is_not_replaced(okvqa: TaskData, tmp_path: Path) -> None:
    answered(seeker(okvqa), okvqa, oracle_passages(okvqa, 2), tmp_path, k=2)
    other = seeker(okvqa)
    other.settings = {"prompt": "who?"}
    with pytest.raises(M2KRError, match=r"OKVQA.joint-2.json holds a result with other settings .*--rerun"):
        answered(other, okvqa, oracle_passages(okvqa, 2), tmp_path, k=2)
    answered(other, okvqa, oracle_passages(okvqa, 3), tmp_path, k=3)  # a file of its own
    assert answered(other, okvqa, oracle_passages(okvqa, 2), tmp_path, k=2, rerun=True)["reader_settings"] == {
        "prompt": "who?"
    }


def test_predictions_that_were_changed_are_answered_anew(okvqa: TaskData, tmp_path: Path) -> None:
    first = answered(seeker(okvqa), okvqa, no_passages(okvqa), tmp_path)
    path = tmp_path / "answers" / "seeker" / "OKVQA.predictions.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"unknown", b"known"))
    again = answered(seeker(okvqa), okvqa, no_passages(okvqa), tmp_path)
    assert path.read_bytes() == content
    assert again["metrics"] == first["metrics"]


class Judge:
    """Takes every answer for right."""

    def __init__(self, name: str) -> None:
        self.settings: dict[str, Any] = {"checkpoint": name}

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        return [1.0] * len(questions)


def test_with_an_equivalence_model_the_answers_are_scored_again_and_not_asked(built: Path, tmp_path: Path) -> None:
    data = load_task("EVQA", built)
    alone = answered(Seeker(), data, no_passages(data), tmp_path)
    assert (alone["headline"], alone["bem"], alone["metrics"]) == (["EM"], None, {"EM": 0.0})
    made = Seeker()
    judged = answered(made, data, no_passages(data), tmp_path, bem=Judge("tiny"))
    assert not made.asked
    assert (judged["headline"], judged["bem"]) == (["BEM", "EM"], {"checkpoint": "tiny"})
    assert judged["metrics"] == {"EM": 0.0, "BEM": 1.0}
    assert judged["answers_key"] == alone["answers_key"]
    assert judged["key"] != alone["key"]
    assert "BEM was judged by tiny, a classifier of transformers, not by the official" in answer_table([judged])
    line = (tmp_path / "answers" / "seeker" / "EVQA.predictions.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["scores"] == {"EM": 0.0, "BEM": 1.0}


def test_infoseek_is_answered_with_its_harmonic_mean(built: Path, tmp_path: Path) -> None:
    data = load_task("Infoseek", built)
    result = answered(seeker(data), data, oracle_passages(data, 3), tmp_path, k=3, combine="concat")
    assert result["headline"] == ["accuracy_harmonic", "accuracy"]
    assert set(result["intervals"]) == set(result["metrics"])
    assert (tmp_path / "answers" / "seeker" / "Infoseek.concat-3.json").is_file()


def test_pictures_are_asked_with_unless_they_are_ignored(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("OKVQA", built, images=world, limit=3)
    made = seeker(data)
    result = answer_task(made, data, no_passages(data), tmp_path, AnswerTaskOptions(quiet=True))
    assert (result["ignored_inputs"], result["limited"], result["queries"]) == ([], True, 3)
    assert all(item.image is not None for item in made.asked)
    bare = load_task("OKVQA", built)
    with pytest.raises(M2KRError, match="the queries of OKVQA have images"):
        answer_task(seeker(bare), bare, no_passages(bare), tmp_path / "other", AnswerTaskOptions(quiet=True))


# --- the command ----------------------------------------------------------------------------------------------------


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


def test_while_answers_are_made_another_command_with_the_same_result_is_refused(
    okvqa: TaskData, tmp_path: Path
) -> None:
    made, other = seeker(okvqa), seeker(okvqa)
    other.settings = {"prompt": "other"}
    answer = made.answer

    def meanwhile(*given: Any, **more: Any) -> list[Answer]:
        with pytest.raises(M2KRError, match=r"seeker/OKVQA is being made by process \d+, since"):
            answered(other, okvqa, no_passages(okvqa), tmp_path)
        return answer(*given, **more)

    made.answer = meanwhile  # type: ignore[method-assign]
    result = answered(made, okvqa, no_passages(okvqa), tmp_path)
    assert not other.asked
    assert result["reader_settings"] == made.settings
    folder = tmp_path / "answers" / "seeker"
    assert sorted(path.name for path in folder.iterdir()) == ["OKVQA.json", "OKVQA.predictions.jsonl"]


def test_more_passages_than_there_are_means_all_of_them(okvqa: TaskData, tmp_path: Path) -> None:
    k = 10**9
    result = answered(seeker(okvqa), okvqa, oracle_passages(okvqa, k), tmp_path, k=k, combine="concat")
    assert result["k"] == okvqa.passages.height
    assert (tmp_path / "answers" / "seeker" / f"OKVQA.concat-{okvqa.passages.height}.json").is_file()


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


def test_a_file_that_is_no_result_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, message in (("{", "is no result file of answering"), ("[]", "it is not an object")):
        path.write_text(content)
        with pytest.raises(M2KRError, match=message):
            read_answer_result(path)


# --- batches that do not fit ----------------------------------------------------------------------------------------


def test_prompts_are_halved_until_they_fit_also_after_a_kill(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Small(Seeker):
        def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
            sizes.append(batch_size)
            if batch_size > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().answer(asked, batch_size)

    evidence = no_passages(okvqa)
    whole = answered(Seeker(), okvqa, evidence, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(task, "score_answers", kill)
        with pytest.raises(ZeroDivisionError):
            answered(Small(), okvqa, evidence, tmp_path / "small")
    assert sizes == [8, 4, 2]
    result = answered(Small(), okvqa, evidence, tmp_path / "small")
    assert sizes == [8, 4, 2]
    assert (whole["batch_size"], result["batch_size"]) == (8, 2)
    assert result["metrics"] == whole["metrics"]


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
