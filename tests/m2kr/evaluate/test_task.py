"""`evaluate_task`: from a retriever and a built task to a run and a result."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG
from PIL import Image

import m2kr
from baselines.bm25 import BM25

# --- what comes out -------------------------------------------------------------------------------------------------
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode
from m2kr.evaluate import task as evaluate
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images import query_pictures
from m2kr.metrics import score
from m2kr.results.record import Result, read_result
from m2kr.results.run import Run
from tests.m2kr.evaluating import (
    KINDS,
    Constant,
    Multi,
    Preparing,
    Seeing,
    Single,
    evaluated,
    run_of,
    sorted_by_id,
    text_of,
    with_settings,
)
from tests.tolerance import assert_ranking, maxsim_table


@pytest.mark.parametrize("make", KINDS)
def test_a_result_has_every_key_and_is_the_one_written(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    made = make()
    result = evaluated(made, okvqa, tmp_path, top_k=50, batch_size=7)
    assert list(result) == list(Result.__annotations__)
    assert read_result(tmp_path / "OKVQA.json") == result
    wanted = {
        "model": made.name,
        "model_settings": made.settings,
        "task": "OKVQA",
        "split": "test",
        "headline": ["Recall@5", "PRecall@5"],
        "queries": 30,
        "passages": okvqa.passages.height,
        "queries_without_positive": 0,
        "queries_with_absent_positive": 0,
        "dataset": okvqa.fingerprint,
        "synthetic": True,
        "limited": False,
        "ignored_inputs": ["image"],
        "instructions": False,
        "search": "exact",
        "top_k": 50,
        "device": "cpu",
        "dtype": "float32",
        "store_dtype": "float32",
        "quantisation": None,
        "batch_effect": None,
        "batch_size": 7,
    }
    assert {key: value for key, value in result.items() if key in wanted} == wanted
    encoding = {"index"} if make is BM25 else {"batch_effect", "encode_passages", "encode_queries"}
    assert set(result["seconds"]) == encoding | {"search", "score", "write"}
    assert result["versions"]["m2kr"] == m2kr.__version__
    assert {"python", "torch", "ranx", "sentence-transformers"} <= set(result["versions"])
    assert list(result["memory"]) == list(result["seconds"])
    assert all(1 << 20 < peak < 1 << 40 for peak in result["memory"].values())
    assert result["peak_memory"] == max(result["memory"].values())
    assert (result["reused"], result["nano"], result["seed"]) == ([], False, None)
    assert result["run_sha256"] == hashlib.sha256(run_of(tmp_path, "OKVQA")).hexdigest()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("task", ["OKVQA", "MSMARCO"])
def test_metrics_are_those_of_the_written_run(built: Path, tmp_path: Path, make: Any, task: str) -> None:
    data = load_task(task, built)
    result = evaluated(make(), data, tmp_path)
    run = Run.read_trec(tmp_path / f"{task}.run.trec.gz")
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    assert result["metrics"] == score(run, data.qrels, answers=data.answers, passages=texts)
    assert ("PRecall@5" in result["metrics"]) is (task == "OKVQA")
    assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert run.query_ids == data.queries["question_id"].to_list()
    assert all(sorted(ids) == sorted(texts) for ids in run.passage_ids)


@pytest.mark.parametrize("make", [Single, Multi])
def test_a_run_holds_the_best_of_all_passages(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    evaluated(make(), okvqa, tmp_path, top_k=20)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    # In the order in which passages that tie are ranked.
    names = sorted(okvqa.passages["passage_id"], reverse=True)
    rows = np.array([[names.index(name) for name in ids] for ids in run.passage_ids])
    table = maxsim_table(make().encode(okvqa.query_texts(instructions=False)), make().encode(sorted_by_id(okvqa)))
    assert_ranking((np.array(run.scores), rows), 20, *table)


def test_bm25_finds_more_than_chance(msmarco: TaskData, tmp_path: Path) -> None:
    # At 200 passages chance finds 1 of 40 among the first five.
    assert evaluated(BM25(), msmarco, tmp_path)["metrics"]["Recall@5"] > 0.3


def test_passages_that_tie_are_ordered_by_their_ids(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Constant(), okvqa, tmp_path, top_k=10)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    wanted = sorted(okvqa.passages["passage_id"], reverse=True)[:10]
    assert run.passage_ids == [wanted] * okvqa.queries.height


class Coarse(Single):
    """Scores of a few values only, so that most passages tie."""

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.array([[len(text_of(item)) % 4] for item in inputs], dtype=np.float32)


@pytest.mark.parametrize("make", [Constant, Coarse])
def test_ties_score_as_ir_measures_scores_the_written_run(built: Path, tmp_path: Path, make: Any) -> None:
    data = load_task("MSMARCO", built)
    result = evaluated(make(), data, tmp_path)
    lines = gzip.decompress(run_of(tmp_path, "MSMARCO")).decode()
    run = list(ir_measures.read_trec_run(lines))  # type: ignore[no-untyped-call]
    # All that ir_measures is told is the scores, so that it has to order the ties itself.
    shuffled = [run[row] for row in np.random.default_rng(0).permutation(len(run))]
    judged = {query: dict.fromkeys(positives, 1) for query, positives in data.qrels.items()}
    measures = {Success @ k: f"Recall@{k}" for k in (1, 5, 10, 100)} | {nDCG @ 10: "nDCG@10"}
    found = ir_measures.calc_aggregate(list(measures), judged, shuffled)
    for measure, name in measures.items():
        assert result["metrics"][name] == pytest.approx(found[measure], abs=1e-9)
    # RR@10 comes from a program that orders ties in its own way, but RR from trec_eval.
    ranks = [metric.value for metric in ir_measures.iter_calc([RR], judged, shuffled)]
    wanted = sum(value for value in ranks if value >= 0.1) / len(judged)
    assert result["metrics"]["MRR@10"] == pytest.approx(wanted, abs=1e-9)


def test_every_text_is_encoded_once_and_nothing_is_left_of_it(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 40)
    made = Single()
    evaluated(made, okvqa, tmp_path, batch_size=5)
    assert made.asked == okvqa.queries["question"].to_list()
    assert sorted(made.read) == sorted(okvqa.passages["passage_content"])
    assert made.batch_sizes == {5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


def test_portions_of_queries_do_not_change_what_a_ranker_finds(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(BM25(), okvqa, tmp_path / "one")
    monkeypatch.setattr(evaluate, "_RANKED", 7)
    evaluated(BM25(), okvqa, tmp_path / "two")
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


@pytest.mark.parametrize("make", [Single, Multi])
def test_neither_chunks_nor_memory_change_a_run(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    evaluated(make(), okvqa, tmp_path / "one")
    monkeypatch.setattr(encode, "CHUNK", 17)
    evaluated(make(), okvqa, tmp_path / "two", search_memory=1 / 1024)
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


def test_no_more_passages_are_asked_for_than_there_are(okvqa: TaskData, tmp_path: Path) -> None:
    asked: list[int] = []

    class Asked(BM25):
        def rank(self, queries: Sequence[str], k: int) -> Any:
            asked.append(k)
            return super().rank(queries, k)

    result = evaluated(Asked(), okvqa, tmp_path, top_k=10**9)
    assert (asked, result["top_k"]) == ([okvqa.passages.height], 10**9)


def test_a_limited_evaluation_says_so(built: Path, tmp_path: Path) -> None:
    result = evaluated(BM25(), load_task("OKVQA", built, limit=4), tmp_path)
    assert (result["queries"], result["limited"]) == (4, True)
    assert len(Run.read_trec(tmp_path / "OKVQA.run.trec.gz").query_ids) == 4


@pytest.mark.parametrize("make", KINDS)
def test_positives_that_are_no_passages_are_counted_and_said(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    qrels = dict(okvqa.qrels)
    for query, positives in ((list(qrels)[2], ["no such passage"]), (list(qrels)[7], [*qrels[list(qrels)[7]], "nor"])):
        qrels[query] = positives
    result = evaluate_task(make(), replace(okvqa, qrels=qrels), tmp_path, TaskOptions(ignore_images=True))
    assert result["queries_with_absent_positive"] == 2
    assert result["queries_without_positive"] == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("OKVQA: 2 of 30 queries have a positive that is not among the passages")


# --- retrievers that do not keep to the protocol --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (-1, 1.0, "returned 265 items for 266 inputs"),
        (1, 1.0, "returned 267 items for 266 inputs"),
        (0, np.nan, "row 0 hold NaN or infinity"),
    ],
)
def test_vectors_that_cannot_be_used_are_an_error(
    okvqa: TaskData, tmp_path: Path, change: int, value: float, message: str
) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.full((len(inputs) + change, 2), value, dtype=np.float32)

    with pytest.raises(M2KRError, match=message):
        evaluated(Wrong(), okvqa, tmp_path)


@pytest.mark.parametrize("value", [Path("somewhere"), float("nan"), {1, 2}])
def test_settings_that_no_result_can_hold_are_refused_at_once(okvqa: TaskData, tmp_path: Path, value: Any) -> None:
    made = with_settings(Single(), odd=value)
    with pytest.raises(M2KRError, match="the settings of fake-single cannot be written"):
        evaluated(made, okvqa, tmp_path)
    assert not made.read


def test_a_split_without_queries_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="there are no queries in OKVQA_data/test"):
        evaluated(Single(), load_task("OKVQA", built, limit=0), tmp_path)


# --- images and instructions ------------------------------------------------------------------------------------------


def test_a_retriever_that_reads_images_gets_them_decoded(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", built, images=world)
    made = Seeing()
    result = evaluate_task(made, data, tmp_path, TaskOptions(quiet=True))
    assert (result["ignored_inputs"], result["instructions"]) == ([], True)
    assert [item["text"] for item in made.asked] == data.query_texts(instructions=True)
    for row, item in enumerate(made.asked):
        assert set(item) == {"text", "image"}
        assert isinstance(item["image"], Image.Image)
        assert item["image"].mode == "RGB"
        assert item["image"].tobytes() == data.query_image(row).tobytes()
    assert all(isinstance(item, str) for item in made.read)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_retriever_gets_pictures_as_it_prepares_them(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(query_pictures, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 8)
    data = load_task("LLaVA", built, images=world)
    made = Preparing()
    evaluate_task(made, data, tmp_path, TaskOptions(quiet=True, workers=workers))
    for row, item in enumerate(made.asked):
        assert item["image"].dtype == np.uint8
        np.testing.assert_array_equal(item["image"], np.asarray(data.query_image(row)))
    assert len(made.asked) == data.queries.height


def with_a_broken_picture(built: Path, world: Path, root: Path, row: int) -> tuple[TaskData, Path]:
    """LLaVA with pictures in ``root``, that of one row broken."""
    whole = load_task("LLaVA", built, images=world)
    for number, path in enumerate(whole.queries["img_path"]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        whole.query_image(number).save(root / path)
    broken = root / whole.queries["img_path"][row]
    broken.write_bytes(b"no picture" * 100)
    return load_task("LLaVA", built, images=root), broken


def test_a_broken_picture_is_named_and_what_came_before_it_is_kept(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 4)
    data, broken = with_a_broken_picture(built, world, tmp_path / "pictures", row=9)
    whole = broken.read_bytes()
    made = Seeing()
    with pytest.raises(M2KRError) as raised:
        evaluate_task(made, data, tmp_path / "out", TaskOptions(quiet=True))
    for part in (str(data.queries["img_path"][9]), str(data.queries["question_id"][9]), "cannot be decoded", "kept"):
        assert part in str(raised.value)
    assert len(made.asked) == 8
    Image.new("RGB", (9, 9)).save(broken)
    broken.write_bytes(broken.read_bytes().ljust(len(whole), b"\0"))  # of the same size: the work goes on
    again = Seeing()
    evaluate_task(again, data, tmp_path / "out", TaskOptions(quiet=True))
    assert not again.read
    assert len(again.asked) == data.queries.height - 8


def test_queries_are_encoded_anew_when_pictures_change(built: Path, world: Path, tmp_path: Path) -> None:
    data, broken = with_a_broken_picture(built, world, tmp_path / "pictures", row=0)
    Image.new("RGB", (9, 9)).save(broken)
    options: dict[str, Any] = {"quiet": True, "keep_embeddings": True, "rerun": True}
    evaluate_task(Seeing(), data, tmp_path / "out", TaskOptions(**options))
    Image.new("RGB", (30, 30)).save(broken)
    made = Seeing()
    assert evaluate_task(made, data, tmp_path / "out", TaskOptions(**options))["reused"] == ["encode_passages"]
    assert len(made.asked) == data.queries.height


def test_a_retriever_that_reads_images_gets_texts_where_there_are_none(msmarco: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluate_task(made, msmarco, tmp_path, TaskOptions(quiet=True))["ignored_inputs"] == []
    assert made.asked == msmarco.query_texts(instructions=True)


def test_images_can_be_kept_from_a_retriever_that_reads_them(okvqa: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluated(made, okvqa, tmp_path)["ignored_inputs"] == ["image"]
    assert made.asked == okvqa.query_texts(instructions=True)


@pytest.mark.parametrize("make", KINDS)
def test_an_image_task_is_refused_to_a_retriever_of_texts(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    with pytest.raises(M2KRError, match=r"OKVQA asks with images \(IQ2T\) and .* reads only text"):
        evaluate_task(make(), okvqa, tmp_path, TaskOptions(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_encoded(built: Path, tmp_path: Path, given: bool) -> None:
    (tmp_path / "empty").mkdir()
    data = load_task("LLaVA", built, images=tmp_path / "empty" if given else None)
    made = Seeing()
    message = r"20 of 20 images of LLaVA are not in .*empty .*, the first is " if given else "have images. Name their"
    with pytest.raises(M2KRError, match=message):
        evaluate_task(made, data, tmp_path / "out", TaskOptions(quiet=True))
    assert not made.read
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["nothing", "cpu,cpu"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_encoded(
    msmarco: TaskData, tmp_path: Path, device: str
) -> None:
    made = Single()
    with pytest.raises(M2KRError, match=f"device '{device}' cannot be used"):
        evaluated(made, msmarco, tmp_path, device=device)
    assert not made.read
