"""`python -m leaderboard check`: measures computed anew from the run."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest

from leaderboard.__main__ import main
from leaderboard.submission import check, check_answers
from m2kr.common.files import sha256_of
from m2kr.errors import run_command


@pytest.fixture
def submission(evaluated, tmp_path):
    """A copy of a result file and its run."""
    folder = tmp_path / "results" / "bm25"
    shutil.copytree(evaluated / "bm25", folder)
    return folder / "OKVQA.json"


def change(path, **values):
    result = json.loads(path.read_text(encoding="utf-8"))
    result.update(values)
    path.write_text(json.dumps(result), encoding="utf-8")


def test_an_honest_result_passes(submission, built, capsys):
    files = [str(submission), str(submission.with_name("MSMARCO.json"))]
    assert main(["check", *files, "--data", str(built)]) == 0
    assert capsys.readouterr().out.count("its measures are those of its run") == 2


def test_a_forged_measure_is_refused(submission, built, capsys):
    metrics = json.loads(submission.read_text(encoding="utf-8"))["metrics"]
    forged = {name: 1.0 for name in metrics if name.startswith("Recall@")}
    change(submission, metrics={**metrics, **forged})
    assert main(["check", str(submission), "--data", str(built)]) == 1
    said = capsys.readouterr().out
    assert "refused" in said
    assert "Recall@5 is 1.000000 in the file" in said


@pytest.mark.parametrize("name", ["MRR@10", "nDCG@10", "PRecall@5", "recall_fraction@5"])
def test_every_measure_is_looked_at(submission, built, name):
    result = json.loads(submission.read_text(encoding="utf-8"))
    one = 1 / result["queries"] if name == "PRecall@5" else 1e-3
    change(submission, metrics={**result["metrics"], name: result["metrics"][name] - one})
    (problem,) = check(submission, str(built))
    assert problem.startswith(name)


def test_a_changed_run_is_refused(submission, built, capsys):
    run = submission.with_name("OKVQA.run.trec.gz")
    lines = gzip.decompress(run.read_bytes())
    run.write_bytes(gzip.compress(lines.replace(b" bm25\n", b" other\n")))
    assert run_command(main, ["check", str(submission), "--data", str(built)]) == 2
    assert "sha256 differs" in capsys.readouterr().err


def test_a_run_with_strange_ids_is_refused(submission, built):
    run = submission.with_name("OKVQA.run.trec.gz")
    lines = gzip.decompress(run.read_bytes()) + b"nobody Q0 nothing 1 1.0 bm25\n"
    run.write_bytes(gzip.compress(lines))
    change(submission, run_sha256=sha256_of(run))
    strangers, unknown = check(submission, str(built))
    assert "1 queries that are not of the task, such as 'nobody'" in strangers
    assert "1 passages that are not of the task, such as 'nothing'" in unknown


def test_other_numbers_than_the_benchmark_are_named(submission, built):
    change(submission, passages=7, top_k=3)
    assert [problem.split()[0] for problem in check(submission, str(built))] == ["passages", "the"]


def test_other_data_cannot_be_checked(submission, built, capsys):
    change(submission, dataset="feedfacefeedface")
    assert run_command(main, ["check", str(submission), "--data", str(built)]) == 2
    assert "Name the benchmark" in capsys.readouterr().err


def test_a_result_without_its_run_cannot_be_checked(submission, built, capsys):
    submission.with_name("OKVQA.run.trec.gz").unlink()
    assert run_command(main, ["check", str(submission), "--data", str(built)]) == 2
    assert "is shown with its run" in capsys.readouterr().err


@pytest.fixture
def answers(answered, tmp_path):
    """A copy of a result file of answering and its predictions."""
    folder = tmp_path / "results" / "bm25" / "answers" / "seeker"
    shutil.copytree(answered / "bm25" / "answers" / "seeker", folder)
    return folder / "OKVQA.joint-3.json"


def test_honest_answers_pass(answers, answered, built, capsys):
    files = [str(answers), str(answered / "oracle/answers/seeker/EVQA.joint-3.json")]
    assert main(["check", *files, "--data", str(built)]) == 0
    assert capsys.readouterr().out.count("its measures are those of its predictions") == 2


def test_scores_that_the_answers_do_not_earn_are_refused(answers, built):
    path = answers.with_name("OKVQA.joint-3.predictions.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps({**line, "scores": {"VQA": 1.0}}) + "\n" for line in lines), encoding="utf-8")
    change(answers, metrics={"VQA": 1.0}, intervals={"VQA": [1.0, 1.0]}, predictions_sha256=sha256_of(path))
    (problem,) = check_answers(answers, str(built))
    assert problem.startswith("VQA is 1.000000 [1.000000, 1.000000] in the file, and 0.")


def test_an_interval_that_is_too_narrow_is_refused(answers, built):
    value = json.loads(answers.read_text(encoding="utf-8"))["metrics"]["VQA"]
    change(answers, intervals={"VQA": [value, value]})
    (problem,) = check_answers(answers, str(built))
    assert problem.startswith("VQA")


def test_answers_of_other_data_or_without_predictions_cannot_be_checked(answers, built, capsys):
    change(answers, dataset="feedfacefeedface")
    assert run_command(main, ["check", str(answers), "--data", str(built)]) == 2
    assert "Name the benchmark" in capsys.readouterr().err
    answers.with_name("OKVQA.joint-3.predictions.jsonl").unlink()
    assert run_command(main, ["check", str(answers), "--data", str(built)]) == 2
    assert "is checked by its predictions" in capsys.readouterr().err
