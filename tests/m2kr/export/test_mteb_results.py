"""Result files in mteb's form: mteb reads them, and finds our figures."""

import json
import shutil

import pytest

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export.__main__ import main
from m2kr.export.mteb_results import export_results, task_result
from m2kr.results.record import read_result


@pytest.fixture(scope="module")
def results(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for task, split in (("OKVQA", "test"), ("OKVQA", "valid"), ("MSMARCO", "test")):
        data = load_task(task, built, split)
        evaluate_task(BM25(), data, folder / "bm25", TaskOptions(quiet=True, ignore_images=True))
    evaluate_task(
        BM25(), load_task("LLaVA", built, limit=3), folder / "bm25", TaskOptions(quiet=True, ignore_images=True)
    )
    return folder


def test_results_load_in_mteb(results, tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb reads the result files; pip install mteb")
    paths = export_results(results, tmp_path, quiet=True)
    assert sorted(path.name for path in paths) == ["M2KRMSMARCO.json", "M2KROKVQA.json"]
    assert {path.parent.parent.name for path in paths} == {"m2kr__bm25"}
    for path in paths:
        task = path.stem.removeprefix("M2KR")
        loaded = mteb.TaskResult.from_disk(path)
        ours = read_result(results / "bm25" / f"{task}.json")
        assert loaded.task_name == path.stem
        assert loaded.dataset_revision == ours["dataset"]
        assert set(loaded.scores) == ({"test", "valid"} if task == "OKVQA" else {"test"})
        (values,) = loaded.scores["test"]
        assert values["hf_subset"] == task
        assert values["languages"] == ["eng-Latn"]
        assert values["main_score"] == values["hit_rate_at_5"] == ours["metrics"]["Recall@5"]
        assert values["recall_at_10"] == ours["metrics"]["recall_fraction@10"]
        assert values["ignored_inputs"] == ours["ignored_inputs"]
        assert values["synthetic"] is True
        assert loaded.get_score(splits=["test"]) == ours["metrics"]["Recall@5"]
    assert "pseudo_recall_at_5" in task_result([read_result(results / "bm25" / "OKVQA.json")])["scores"]["test"][0]


def test_results_of_a_few_queries_are_left_out(results, tmp_path, capsys):
    assert main([str(results), "--to", "mteb-results", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert "1 results of a few queries (--limit, --nano) are left out" in printed.err
    (tmp_path / "few" / "bm25").mkdir(parents=True)
    shutil.copy(results / "bm25" / "LLaVA.json", tmp_path / "few" / "bm25")
    nano = {**read_result(results / "bm25" / "OKVQA.json"), "nano": True, "seed": 0}
    (tmp_path / "few" / "bm25" / "OKVQA.json").write_text(json.dumps(nano))
    with pytest.raises(M2KRError, match="holds only results of a few queries"):
        export_results(tmp_path / "few", tmp_path / "out")


def test_results_that_would_overwrite_each_other_are_refused(results, tmp_path):
    shutil.copytree(results, tmp_path / "twice")
    shutil.copytree(results / "bm25", tmp_path / "twice" / "again")
    with pytest.raises(M2KRError, match="bm25 on MSMARCO stands twice"):
        export_results(tmp_path / "twice", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_with_and_without_pictures_of_passages_are_of_two_revisions(results, tmp_path):
    for use in ("read", "ignored", "not read"):
        folder = tmp_path / "uses" / use.replace(" ", "-")
        folder.mkdir(parents=True)
        result = {**read_result(results / "bm25" / "OKVQA.json"), "passage_images": use}
        (folder / "OKVQA.json").write_text(json.dumps(result))
    paths = export_results(tmp_path / "uses", tmp_path / "out", quiet=True)
    found = {json.loads(path.read_text())["scores"]["test"][0]["passage_images"]: path for path in paths}
    assert set(found) == {"read", "ignored", "not read"}
    revisions = {use: json.loads(path.read_text())["dataset_revision"] for use, path in found.items()}
    assert (
        revisions["ignored"] == revisions["not read"] == revisions["read"].removesuffix("-it2it") != revisions["read"]
    )


def test_an_option_without_meaning_for_results_is_refused(results, tmp_path, capsys):
    assert (
        run_command(main, [str(results), "--to", "mteb-results", "--out", str(tmp_path / "o"), "--tasks", "OKVQA"]) == 2
    )
    assert "--tasks says nothing about result files" in capsys.readouterr().err
