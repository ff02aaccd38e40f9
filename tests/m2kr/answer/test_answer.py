"""`m2kr.answer.task`: from a reader and passages to predictions and a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from m2kr.answer import metrics as answers
from m2kr.answer import task
from m2kr.answer.evidence import no_passages, oracle_passages, run_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.common.files import sha256_of
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.reader import Answer, ReaderInput
from m2kr.results.answer_record import AnswerResult, read_answer_result, read_answer_results
from m2kr.results.record import read_results
from m2kr.results.table import answer_table
from m2kr.significance import bootstrap_means
from tests.m2kr.answer.readers import Seeker, answered, seeker
from tests.m2kr.evaluating import kill

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


def test_a_file_that_is_no_result_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, message in (("{", "is no result file of answering"), ("[]", "it is not an object")):
        path.write_text(content)
        with pytest.raises(M2KRError, match=message):
            read_answer_result(path)


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
