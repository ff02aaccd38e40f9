"""`python -m leaderboard check`: measures computed anew, from runs and from predictions."""

from __future__ import annotations

import gzip
import json

import pytest

from leaderboard.__main__ import main
from leaderboard.submission import check
from m2kr.common.files import sha256_of
from m2kr.errors import run_command
from tests.made_results import change, write

RUN, ANSWERS = "bm25/OKVQA.json", "bm25/answers/seeker/OKVQA.joint-3.json"


def metrics_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["metrics"]


def checked(path, data):
    return run_command(main, ["check", str(path), "--data", str(data)])


def test_honest_results_pass(answered, built, capsys):
    names = (RUN, "bm25/MSMARCO.json", ANSWERS, "oracle/answers/seeker/EVQA.joint-3.json")
    files = [str(answered / name) for name in names]
    assert main(["check", *files, "--data", str(built)]) == 0
    said = capsys.readouterr().out
    assert said.count("its measures are those of its run") == 2
    assert said.count("its measures are those of its predictions") == 2


def test_a_forged_measure_is_refused(submitted, built, capsys):
    metrics = metrics_of(submitted / RUN)
    forged = {name: 1.0 for name in metrics if name.startswith("Recall@")}
    change(submitted / RUN, metrics={**metrics, **forged})
    assert checked(submitted / RUN, built) == 1
    said = capsys.readouterr().out
    assert "refused" in said
    assert "Recall@5 is 1.000000 in the file" in said


@pytest.mark.parametrize("name", ["MRR@10", "nDCG@10", "PRecall@5", "recall_fraction@5"])
def test_every_measure_is_looked_at(submitted, built, name):
    metrics = metrics_of(submitted / RUN)
    queries = json.loads((submitted / RUN).read_text(encoding="utf-8"))["queries"]
    one = 1 / queries if name == "PRecall@5" else 1e-3
    change(submitted / RUN, metrics={**metrics, name: metrics[name] - one})
    (problem,) = check(submitted / RUN, str(built))
    assert problem.startswith(name)


def test_a_changed_run_is_refused(submitted, built, capsys):
    run = submitted / "bm25/OKVQA.run.trec.gz"
    lines = gzip.decompress(run.read_bytes())
    run.write_bytes(gzip.compress(lines.replace(b" bm25\n", b" other\n")))
    assert checked(submitted / RUN, built) == 2
    assert "OKVQA.run.trec.gz is not the run" in capsys.readouterr().err


def test_a_run_with_strange_ids_is_refused(submitted, built):
    run = submitted / "bm25/OKVQA.run.trec.gz"
    lines = gzip.decompress(run.read_bytes()) + b"nobody Q0 nothing 1 1.0 bm25\n"
    run.write_bytes(gzip.compress(lines))
    change(submitted / RUN, run_sha256=sha256_of(run))
    strangers, unknown = check(submitted / RUN, str(built))
    assert "1 queries that are not of the task, such as 'nobody'" in strangers
    assert "1 passages that are not of the task, such as 'nothing'" in unknown


def test_other_numbers_than_the_benchmark_are_named(submitted, built):
    change(submitted / RUN, passages=7, top_k=3)
    assert [problem.split()[0] for problem in check(submitted / RUN, str(built))] == ["passages", "the"]


def test_a_wrong_number_of_absent_positives_is_named_where_there_is_one(submitted, built):
    change(submitted / RUN, queries_with_absent_positive=2)
    assert check(submitted / RUN, str(built)) == [
        "queries_with_absent_positive is 2 in the file, and 0 in the benchmark"
    ]
    older = json.loads((submitted / RUN).read_text(encoding="utf-8"))
    del older["queries_with_absent_positive"], older["batch_effect"]
    write(submitted / RUN, older)
    assert check(submitted / RUN, str(built)) == []


@pytest.mark.parametrize("name", [RUN, ANSWERS])
def test_other_data_cannot_be_checked(submitted, built, capsys, name):
    change(submitted / name, dataset="feedfacefeedface")
    assert checked(submitted / name, built) == 2
    assert "Name the benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "beside"),
    [(RUN, "bm25/OKVQA.run.trec.gz"), (ANSWERS, "bm25/answers/seeker/OKVQA.joint-3.predictions.jsonl")],
)
def test_a_result_without_its_run_or_predictions_cannot_be_checked(submitted, built, capsys, name, beside):
    (submitted / beside).unlink()
    assert checked(submitted / name, built) == 2
    assert f"{beside} is not there" in capsys.readouterr().err


def test_scores_that_the_answers_do_not_earn_are_refused(submitted, built):
    path = submitted / "bm25/answers/seeker/OKVQA.joint-3.predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps({**line, "scores": {"VQA": 1.0}}) + "\n" for line in lines), encoding="utf-8")
    forged = {"metrics": {"VQA": 1.0}, "intervals": {"VQA": [1.0, 1.0]}, "predictions_sha256": sha256_of(path)}
    change(submitted / ANSWERS, **forged)
    (problem,) = check(submitted / ANSWERS, str(built))
    assert problem.startswith("VQA is 1.000000 [1.000000, 1.000000] in the file, and 0.")


def test_an_interval_that_is_too_narrow_is_refused(submitted, built):
    value = metrics_of(submitted / ANSWERS)["VQA"]
    change(submitted / ANSWERS, intervals={"VQA": [value, value]})
    (problem,) = check(submitted / ANSWERS, str(built))
    assert problem.startswith("VQA")
