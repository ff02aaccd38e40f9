"""`m2kr.evaluate`: from a retriever and a built task to a run and a result, also after a kill."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG
from PIL import Image

import m2kr
from baselines.bm25 import BM25
from m2kr import dataset, encode, evaluate, results, retriever
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate import evaluate_task, main
from m2kr.maxsim import Block
from m2kr.metrics import compare, score
from m2kr.results import Result, Run, read_result, read_results
from m2kr.tasks import TASKS

DIM = 16


def vector_of(word: str) -> np.ndarray:
    vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Single:
    """One vector a text, the mean of those of its words, which come from their hashes. It keeps what it is given."""

    vectors = "single"
    reads = frozenset({"text"})
    reads_instructions = False

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.name = f"fake-{self.vectors}"
        self.settings: dict[str, Any] = {"dim": DIM}
        self.asked: list[Any] = []
        self.read: list[Any] = []
        self.batch_sizes: set[int] = set()
        self.fail: Callable[[], bool] = lambda: False

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack([np.mean(many_vectors(text_of(item)), axis=0) for item in inputs])

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.asked, inputs, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.read, inputs, batch_size)

    def _kept(self, kept: list[Any], inputs: Sequence[Any], batch_size: int) -> Any:
        self.batch_sizes.add(batch_size)
        if self.fail():
            raise ZeroDivisionError("killed")
        kept.extend(inputs)
        return self.encode(inputs)


class Multi(Single):
    """One vector a word."""

    vectors = "multi"

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [many_vectors(text_of(item)) for item in inputs]


class Seeing(Single):
    """Reads images too, and instructions."""

    reads = frozenset({"text", "image"})
    reads_instructions = True


def text_of(item: Any) -> str:
    return item if isinstance(item, str) else item["text"]


def many_vectors(text: str) -> np.ndarray:
    return np.stack([vector_of(word) for word in re.findall(r"\w+", text.lower()) or [""]])


KINDS: list[Callable[[], Any]] = [Single, Multi, BM25]


@pytest.fixture
def okvqa(built: Path) -> TaskData:
    return load_task("OKVQA", built)


@pytest.fixture
def msmarco(built: Path) -> TaskData:
    return load_task("MSMARCO", built)


def run_of(out: Path, task: str) -> bytes:
    return (out / f"{task}.run.trec.gz").read_bytes()


def evaluated(made: Any, data: TaskData, out: Path, **options: Any) -> Result:
    return evaluate_task(made, data, out, quiet=True, ignore_images=True, **options)


# --- what comes out -------------------------------------------------------------------------------------------------


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
        "batch_size": 7,
    }
    assert {key: value for key, value in result.items() if key in wanted} == wanted
    encoding = {"index"} if make is BM25 else {"encode_passages", "encode_queries"}
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
    queries = make().encode(okvqa.query_texts(instructions=False))
    passages = dict(
        zip(okvqa.passages["passage_id"], make().encode(okvqa.passages["passage_content"].to_list()), strict=True)
    )
    for query, ids, scores in zip(queries, run.passage_ids, run.scores, strict=True):
        # A matrix of one row is a vector: the best match of each query vector, added up.
        table = {
            name: float((np.atleast_2d(query) @ np.atleast_2d(passage).T).max(axis=1).sum())
            for name, passage in passages.items()
        }
        assert len(set(ids)) == 20
        np.testing.assert_allclose(scores, [table[name] for name in ids], atol=1e-4)
        np.testing.assert_allclose(scores, sorted(table.values(), reverse=True)[:20], atol=1e-4)


def test_bm25_finds_more_than_chance(msmarco: TaskData, tmp_path: Path) -> None:
    # At 200 passages chance finds 1 of 40 among the first five.
    assert evaluated(BM25(), msmarco, tmp_path)["metrics"]["Recall@5"] > 0.3


def test_passages_that_tie_are_ordered_by_their_ids(okvqa: TaskData, tmp_path: Path) -> None:
    class Constant(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.ones((len(inputs), 2), dtype=np.float32)

    evaluated(Constant(), okvqa, tmp_path, top_k=10)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    wanted = sorted(okvqa.passages["passage_id"], reverse=True)[:10]
    assert run.passage_ids == [wanted] * okvqa.queries.height


class Constant(Single):
    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.ones((len(inputs), 2), dtype=np.float32)


class Coarse(Single):
    """Scores of a few values only, so that most passages tie."""

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.array([[len(text_of(item)) % 4] for item in inputs], dtype=np.float32)


@pytest.mark.parametrize("make", [Constant, Coarse])
def test_ties_score_as_ir_measures_scores_the_written_run(built: Path, tmp_path: Path, make: Any) -> None:
    data = load_task("MSMARCO", built)
    result = evaluated(make(), data, tmp_path)
    lines = gzip.decompress(run_of(tmp_path, "MSMARCO")).decode()
    run = list(ir_measures.read_trec_run(lines))
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


def test_the_batch_size_reaches_the_retriever(okvqa: TaskData, tmp_path: Path) -> None:
    made = Single()
    evaluated(made, okvqa, tmp_path, batch_size=5)
    assert made.batch_sizes == {5}


def test_every_text_is_encoded_once(okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHUNK", 40)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert made.asked == okvqa.queries["question"].to_list()
    assert sorted(made.read) == sorted(okvqa.passages["passage_content"])


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
    evaluated(make(), okvqa, tmp_path / "two", search_memory=1 << 20)
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


def test_a_limited_evaluation_says_so(built: Path, tmp_path: Path) -> None:
    result = evaluated(BM25(), load_task("OKVQA", built, limit=4), tmp_path)
    assert (result["queries"], result["limited"]) == (4, True)
    assert len(Run.read_trec(tmp_path / "OKVQA.run.trec.gz").query_ids) == 4


def test_nothing_but_run_and_result_is_left(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


# --- 8 bits ---------------------------------------------------------------------------------------------------------


class Close(Single):
    """Vectors of passages differ by less than 8 bits can tell."""

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return np.float32(1) + np.float32(1e-3) * super().encode_document(inputs, batch_size)


def in_8_bits(vectors: np.ndarray) -> np.ndarray:
    """What `m2kr.quantise` stands for, plainly."""
    scales = np.abs(vectors).max(axis=-1, keepdims=True) / 127
    rounded: np.ndarray = (np.rint(vectors / scales) * scales).astype(np.float32)
    return rounded


@pytest.mark.parametrize("make", [Single, Multi, Close])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_with_8_bits_is_that_of_rounded_passages(okvqa: TaskData, tmp_path: Path, make: Any, dtype: str) -> None:
    class Rounded(make):  # type: ignore[misc]
        def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
            found = super().encode_document(inputs, batch_size)
            if self.vectors == "single":
                return in_8_bits(found)
            return [in_8_bits(item) for item in found]

    result = evaluated(make(), okvqa, tmp_path / "one", dtype=dtype, store_dtype="int8", top_k=20)
    assert (result["dtype"], result["store_dtype"]) == (dtype, "int8")
    evaluated(Rounded(), okvqa, tmp_path / "two", dtype=dtype, store_dtype="float32", top_k=20)
    one, two = (Run.read_trec(tmp_path / name / "OKVQA.run.trec.gz") for name in ("one", "two"))
    for found, wanted in zip(one.scores, two.scores, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def measured_by_hand(data: TaskData, made: Any, k: int) -> dict[str, float]:
    """The effect on all queries and passages of `data`, from a product of matrices."""
    passages = data.passages.sort("passage_id", descending=True)
    queries = made.encode_query(data.query_texts(instructions=False))
    documents = made.encode_document(sorted_by_id(data))
    hits, found = [], []
    for matrix in (documents, in_8_bits(documents)):
        best = np.argsort(-(queries @ matrix.T), axis=1, kind="stable")[:, :k]
        found.append([set(passages["passage_id"][row.tolist()]) for row in best])
        hits.append([bool(names & set(data.qrels[name])) for names, name in zip(found[-1], data.qrels, strict=True)])
    return {
        "k": k,
        "queries": len(queries),
        "recall": float(np.mean(hits[0])),
        "recall_int8": float(np.mean(hits[1])),
        "changed": sum(one != two for one, two in zip(*hits, strict=True)),
        "overlap": pytest.approx(np.mean([len(one & two) / k for one, two in zip(*found, strict=True)])),
        "passages": len(documents),
    }


@pytest.mark.parametrize("make", [Single, Close])
@pytest.mark.parametrize("kind", ["whole", "limited", "nano"])
def test_the_effect_of_8_bits_is_measured_said_and_recorded(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, kind: str
) -> None:
    data = load_task("OKVQA", built, limit=9 if kind == "limited" else None)
    data = dataset.nano_subset(data, queries=8, passages=60) if kind == "nano" else data
    result = evaluate_task(make(), data, tmp_path, ignore_images=True, store_dtype="int8")
    effect = result["quantisation"]
    assert effect == measured_by_hand(data, make(), 5)
    assert effect["overlap"] < 1 or make is Single
    name = "OKVQA.nano.json" if kind == "nano" else "OKVQA.json"
    assert read_result(tmp_path / name)["quantisation"] == effect
    assert "quantisation" in result["seconds"]
    wanted = f"OKVQA: 8-bit passages, {effect['queries']} queries: Recall@5 {100 * effect['recall_int8']:.2f} ("
    err = capsys.readouterr().err
    assert wanted in err
    assert f"({effect['passages']} of {effect['passages']} passages)" in err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("make", [Single, Multi])
def test_the_effect_of_8_bits_is_measured_on_a_sample_or_on_kept_passages(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, kept: bool
) -> None:
    monkeypatch.setattr(dataset.nano_subset, "__kwdefaults__", {"seed": 0, "queries": 50, "passages": 80})
    monkeypatch.setattr(encode, "_SAMPLED", 7)
    data = load_task("OKVQA", built, limit=20)
    if kept:
        evaluated(make(), data, tmp_path, keep_embeddings=True)
    made = make()
    result = evaluated(made, data, tmp_path, store_dtype="int8", rerun=True)
    effect = result["quantisation"]
    assert effect is not None
    assert (effect["queries"], effect["passages"]) == (7, 266 if kept else 80)
    # Queries are not encoded again for it, and passages only where there are none to be found.
    assert (len(made.read), len(made.asked)) == ((266, 0) if kept else (266 + 80, 20))
    assert result["reused"] == (["encode_queries"] if kept else [])
    if make is Single and not kept:
        sample = dataset.nano_subset(load_task("OKVQA", built), seed=0, queries=7, passages=80)
        assert effect["passages"] == sample.passages.height


def test_after_a_kill_the_effect_of_8_bits_is_measured_without_encoding_again(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    whole = evaluated(Multi(), okvqa, tmp_path / "whole", store_dtype="int8")
    for name in ("m2kr.quantise.quantisation_effect", "m2kr.metrics.score"):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(name, killed)
            with pytest.raises(ZeroDivisionError):
                evaluated(Multi(), okvqa, folder, store_dtype="int8")
        again = Multi()
        result = evaluated(again, okvqa, folder, store_dtype="int8")
        assert (again.read, again.asked) == ([], [])
        assert comparable(folder / "OKVQA.json") == comparable(tmp_path / "whole" / "OKVQA.json")
        assert set(result["seconds"]) == set(whole["seconds"])
        assert run_of(folder, "OKVQA") == run_of(tmp_path / "whole", "OKVQA")


def test_a_type_to_store_is_refused_to_what_stores_nothing(msmarco: TaskData, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="bm25 makes no embeddings, so none are stored as int8"):
        evaluated(BM25(), msmarco, tmp_path, store_dtype="int8")


# --- several devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Single, Multi, Constant])
def test_devices_share_the_passages_and_change_no_byte(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    whole, chunks = Block.of, []
    monkeypatch.setattr(Block, "of", lambda *given: chunks.append(given[-1]) or whole(*given))  # type: ignore[func-returns-value]
    one = evaluated(make(), okvqa, tmp_path / "one", search_memory=1 << 19)
    alone = len(chunks)
    two = evaluated(make(), okvqa, tmp_path / "two", search_memory=1 << 19, device="cpu,cpu")
    assert len(chunks) > 2 * alone or make is not Multi  # vectors of one each are a single chunk
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")
    assert (one["device"], two["device"]) == ("cpu", "cpu,cpu")
    assert (one["metrics"], one["hardware"], one["key"]) == (two["metrics"], two["hardware"], two["key"])


def test_only_the_search_gets_several_devices(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: list[Any]
) -> None:
    from m2kr import search

    whole, asked = search.search, []
    monkeypatch.setattr(
        search, "search", lambda *given, **named: asked.append(named["device"]) or whole(*given, **named)
    )
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path), "--quiet"]
    assert main([*arguments, "--device", "cpu, cpu", "--store-dtype", "int8"]) == 0
    assert registered[0].given["device"] == "cpu"
    assert asked == ["cpu, cpu"] * 3  # the evaluation, and before and after for the effect
    result = read_result(tmp_path / "fake-single" / "MSMARCO.json")
    assert (result["device"], result["store_dtype"], result["hardware"]) == (
        "cpu, cpu",
        "int8",
        results.hardware("cpu"),
    )


@pytest.mark.parametrize("device", ["cpu,nothing", "cpu,meta", "cpu,"])
def test_devices_that_are_not_there_are_refused_before_a_model_is_loaded(
    built: Path, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str], device: str
) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path)]
    assert run_command(main, [*arguments, "--device", device]) == 2
    assert "device" in capsys.readouterr().err
    assert not registered
    made = Single()
    with pytest.raises(M2KRError, match="device"):
        evaluated(made, load_task("MSMARCO", built), tmp_path, device=device)
    assert not made.read


# --- images and instructions ----------------------------------------------------------------------------------------


def test_a_retriever_that_reads_images_gets_them_decoded(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", built, images=world)
    made = Seeing()
    result = evaluate_task(made, data, tmp_path, quiet=True)
    assert (result["ignored_inputs"], result["instructions"]) == ([], True)
    assert [item["text"] for item in made.asked] == data.query_texts(instructions=True)
    for row, item in enumerate(made.asked):
        assert set(item) == {"text", "image"}
        assert isinstance(item["image"], Image.Image)
        assert item["image"].mode == "RGB"
        assert item["image"].tobytes() == data.query_image(row).tobytes()
    assert all(isinstance(item, str) for item in made.read)


class Preparing(Seeing):
    """Gets pictures as its own function made them, and tells them apart."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.prepare_image = np.asarray

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack(
            [vector_of(item if isinstance(item, str) else item["image"].tobytes().hex()) for item in inputs]
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_retriever_gets_pictures_as_it_prepares_them(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(encode, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 8)
    data = load_task("LLaVA", built, images=world)
    made = Preparing()
    evaluate_task(made, data, tmp_path, quiet=True, workers=workers)
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
        evaluate_task(made, data, tmp_path / "out", quiet=True)
    for part in (str(data.queries["img_path"][9]), str(data.queries["question_id"][9]), "cannot be decoded", "kept"):
        assert part in str(raised.value)
    assert len(made.asked) == 8
    Image.new("RGB", (9, 9)).save(broken)
    broken.write_bytes(broken.read_bytes().ljust(len(whole), b"\0"))  # of the same size: the work goes on
    again = Seeing()
    evaluate_task(again, data, tmp_path / "out", quiet=True)
    assert not again.read
    assert len(again.asked) == data.queries.height - 8


def test_queries_are_encoded_anew_when_pictures_change(built: Path, world: Path, tmp_path: Path) -> None:
    data, broken = with_a_broken_picture(built, world, tmp_path / "pictures", row=0)
    Image.new("RGB", (9, 9)).save(broken)
    options: dict[str, Any] = {"quiet": True, "keep_embeddings": True, "rerun": True}
    evaluate_task(Seeing(), data, tmp_path / "out", **options)
    Image.new("RGB", (30, 30)).save(broken)
    made = Seeing()
    assert evaluate_task(made, data, tmp_path / "out", **options)["reused"] == ["encode_passages"]
    assert len(made.asked) == data.queries.height


def test_a_retriever_that_reads_images_gets_texts_where_there_are_none(msmarco: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluate_task(made, msmarco, tmp_path, quiet=True)["ignored_inputs"] == []
    assert made.asked == msmarco.query_texts(instructions=True)


def test_images_can_be_kept_from_a_retriever_that_reads_them(okvqa: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluated(made, okvqa, tmp_path)["ignored_inputs"] == ["image"]
    assert made.asked == okvqa.query_texts(instructions=True)


@pytest.mark.parametrize("make", KINDS)
def test_an_image_task_is_refused_to_a_retriever_of_texts(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    with pytest.raises(M2KRError, match=r"OKVQA asks with images \(IQ2T\) and .* reads only text"):
        evaluate_task(make(), okvqa, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_encoded(built: Path, tmp_path: Path, given: bool) -> None:
    (tmp_path / "empty").mkdir()
    data = load_task("LLaVA", built, images=tmp_path / "empty" if given else None)
    made = Seeing()
    message = r"20 of 20 images of LLaVA are not in .*empty, the first is " if given else "have images. Name their"
    with pytest.raises(M2KRError, match=message):
        evaluate_task(made, data, tmp_path / "out", quiet=True)
    assert not made.read
    assert not (tmp_path / "out").exists()


# --- what is not done again -----------------------------------------------------------------------------------------


def test_a_finished_task_is_not_run_again(okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    made = Single()
    assert evaluate_task(made, okvqa, tmp_path, ignore_images=True) == first
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


def test_a_result_without_its_run_is_made_again(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(BM25(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
    (tmp_path / "OKVQA.run.trec.gz").unlink()
    evaluated(BM25(), okvqa, tmp_path)
    assert run_of(tmp_path, "OKVQA") == run


def test_a_result_whose_run_is_another_is_made_again(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(BM25(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
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


def with_settings(made: Single, **settings: Any) -> Single:
    made.settings = {**made.settings, **settings}
    return made


@pytest.mark.parametrize("what", ["top_k", "dtype", "store_dtype", "settings", "instructions", "images", "limit"])
def test_a_result_of_other_settings_is_not_replaced_unless_asked_for(
    built: Path, world: Path, tmp_path: Path, what: str
) -> None:
    made, options = Seeing(), {"top_k": 20}
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
        return evaluate_task(made, data, tmp_path, quiet=True, ignore_images=what != "images", **options, **more)

    with pytest.raises(M2KRError, match=r"OKVQA.json holds a result with other settings .*--rerun"):
        again()
    assert (tmp_path / "OKVQA.json").read_bytes() == content
    assert again(rerun=True)["key"] != before["key"]


@pytest.mark.parametrize("option", [{"batch_size": 3}, {"search_memory": 1 << 25}])
def test_what_changes_no_score_does_not_make_a_result_another(
    okvqa: TaskData, tmp_path: Path, option: dict[str, int]
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


def sorted_by_id(data: TaskData) -> list[str]:
    return data.passages.sort("passage_id", descending=True)["passage_content"].to_list()


def test_a_kill_before_the_result_is_written_encodes_nothing_again(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_result", killed)
        with pytest.raises(ZeroDivisionError):
            evaluated(Single(), okvqa, tmp_path)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert not made.read
    assert not made.asked


def comparable(path: Path) -> dict[str, Any]:
    measured = ("seconds", "memory", "peak_memory", "reused")
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in measured}


# Where it is killed, and whether the search is done again.
KILLS = [
    ("m2kr.search", "search", True),
    ("m2kr.results", "Run.write_trec", True),
    ("m2kr.files", "write_json", True),
    ("m2kr.metrics", "score", False),
    ("m2kr.results", "write_result", False),
    ("m2kr.encode", "discard", False),
]


@pytest.mark.parametrize(
    ("make", "keep", "module", "name", "repeated"),
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
    module: str,
    name: str,
    repeated: bool,
) -> None:
    evaluated(make(), msmarco, tmp_path / "whole", keep_embeddings=keep)

    def killed(*given: Any, **_: Any) -> None:
        if name == "Run.write_trec":
            given[1].parent.mkdir(parents=True, exist_ok=True)
            given[1].with_name(f".{given[1].name}.tmp").write_bytes(b"half of it")
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", killed)
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
from m2kr import encode
from m2kr.dataset import load_task
from m2kr.evaluate import evaluate_task

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
    encode.IMAGE_CHUNK, encode._WORTH_A_POOL = 8, 1
    data = load_task("LLaVA", sys.argv[1], images=sys.argv[2])
    evaluate_task(Lengths(), data, Path(sys.argv[3]), workers=2, quiet=True)
"""


def test_after_sigkill_the_same_evaluation_ends_the_same(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, "script.py", str(built), str(world), "killed"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, cwd=tmp_path, env=env, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / ".LLaVA.work" / "queries" / "000000000000.lengths.npy").exists()
    script: dict[str, Any] = {"__name__": "script"}
    exec(KILLED, script)
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 8)
    data = load_task("LLaVA", built, images=world)
    for folder in ("killed", "whole"):
        made = script["Lengths"]()
        evaluate_task(made, data, tmp_path / folder, quiet=True)
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
        with pytest.raises(M2KRError, match=r"could not be written: File too large\. Free some space"):
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


# --- retrievers that do not keep to the protocol --------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1], ids=["too few", "too many"])
def test_a_wrong_number_of_vectors_is_an_error(okvqa: TaskData, tmp_path: Path, change: int) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.ones((len(inputs) + change, 2), dtype=np.float32)

    with pytest.raises(M2KRError, match=rf"returned {266 + change} items for 266 inputs"):
        evaluated(Wrong(), okvqa, tmp_path)


def test_vectors_that_are_not_finite_are_an_error(okvqa: TaskData, tmp_path: Path) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.full((len(inputs), 2), np.nan, dtype=np.float32)

    with pytest.raises(M2KRError, match="row 0 hold NaN or infinity"):
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


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register the fakes as "single", "multi" and "seeing", and bm25; return those that are made."""
    made: list[Any] = []

    class Point:
        def __init__(self, name: str, cls: Any) -> None:
            self.name, self.value, self.cls = name, f"tests:{name}", cls

        def load(self) -> Any:
            def make(**given: Any) -> Any:
                made.append(self.cls(**given))
                return made[-1]

            return make

    points = [Point("single", Single), Point("multi", Multi), Point("seeing", Seeing), Point("bm25", BM25)]
    monkeypatch.setattr(retriever, "entry_points", lambda group: points)
    return made


@pytest.mark.usefixtures("registered")
def test_the_command_evaluates_all_tasks_and_prints_one_table(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "bm25", "--data", str(built), "--ignore-images", "--out", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    tested = [task for task in TASKS.values() if "test" in task.splits]
    assert [line.split()[:3] for line in out.splitlines()[2 : 2 + len(tested)]] == [
        [task.key, "test", "bm25*" if task.reads_images else "bm25"] for task in tested
    ]
    assert "made-up data" in out
    assert {path.stem for path in (tmp_path / "bm25").glob("*.json")} == {task.key for task in tested}
    assert results.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == out


def test_the_command_passes_its_options_on(built: Path, world: Path, tmp_path: Path, registered: list[Any]) -> None:
    arguments = ["--model", "seeing", "--data", str(built), "--tasks", "okvqa", "--images", str(world), "--quiet"]
    arguments += ["--out", str(tmp_path), "--top-k", "9", "--limit", "3", "--split", "valid", "--batch-size", "2"]
    assert main([*arguments, "--dtype", "float16"]) == 0
    result = read_result(tmp_path / "fake-single" / "OKVQA.valid.json")
    assert (result["split"], result["queries"], result["top_k"]) == ("valid", 3, 9)
    assert (result["batch_size"], result["dtype"], result["limited"]) == (2, "float16", True)
    assert len(registered[0].asked) == 3
    lines = gzip.decompress(run_of(tmp_path / "fake-single", "OKVQA.valid")).splitlines()
    assert len(lines) == 27


def test_a_nano_result_has_a_name_of_its_own_and_says_so(
    built: Path,
    tmp_path: Path,
    registered: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dataset.nano_subset, "__kwdefaults__", {"seed": 0, "queries": 5, "passages": 80})
    arguments = ["--model", "single", "--data", str(built), "--tasks", "OKVQA", "--ignore-images", "--quiet"]
    arguments += ["--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--nano", "--seed", "3"]) == 0
    assert main([*arguments, "--nano", "--seed", "3"]) == 0  # finished before
    assert capsys.readouterr().out.count("--nano") == 2
    assert [len(one.read) for one in registered] == [266, 80, 0]
    folder = tmp_path / "fake-single"
    result = read_result(folder / "OKVQA.nano.json")
    assert (result["nano"], result["seed"], result["queries"], result["passages"]) == (True, 3, 5, 80)
    assert len(gzip.decompress(run_of(folder, "OKVQA.nano")).splitlines()) == 5 * 80
    assert read_result(folder / "OKVQA.json")["passages"] == 266
    assert run_command(main, [*arguments, "--nano"]) == 2  # seed 0 is another subset
    assert "holds a result with other settings" in capsys.readouterr().err


def test_options_of_the_retriever_are_recorded(built: Path, tmp_path: Path, registered: list[Any]) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path), "--quiet"]
    assert main([*arguments, "--option", "fusion=sum", "--option", "layers=2"]) == 0
    result = read_result(tmp_path / "fake-single" / "MSMARCO.json")
    assert result["model_settings"] == {"dim": DIM, "options": {"fusion": "sum", "layers": "2"}}
    assert run_command(main, [*arguments, "--option", "fusion=image"]) == 2


# --- comparison -----------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(built: Path, tmp_path: Path) -> Path:
    """Results of two models on two tasks."""
    for task in ("MSMARCO", "OKVQA"):
        data = load_task(task, built)
        evaluated(BM25(), data, tmp_path / "bm25")
        evaluated(Single(), data, tmp_path / "single")
    return tmp_path


def comparison(built: Path, *paths: Path) -> list[str]:
    return ["--compare", *map(str, paths), "--data", str(built)]


def test_folders_are_compared_task_by_task(built: Path, compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(comparison(built, compared / "bm25", compared / "single")) == 0
    out = capsys.readouterr().out
    tables = out.split("\n\n")
    assert [table.splitlines()[0].split(":")[0] for table in tables[:-1]] == ["MSMARCO test", "OKVQA test"]
    assert "p of a two-sided paired" in tables[-1]
    for task, text in zip(("MSMARCO", "OKVQA"), tables[:-1], strict=True):
        data = load_task(task, built)
        runs = {name: Run.read_trec(compared / name / f"{task}.run.trec.gz") for name in ("bm25", "single")}
        texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
        wanted = compare(runs, data.qrels, answers=data.answers, passages=texts, measures=[data.task.metrics[0]])
        first, second = wanted.row(0, named=True), wanted.row(1, named=True)
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        shown = f"{100 * first['mean']:.1f} [{100 * first['low']:.1f}, {100 * first['high']:.1f}]"
        assert [data.task.metrics[0], "bm25", shown] in lines
        (line,) = [line for line in lines if line[:2] == [data.task.metrics[0], "fake-single"]]
        assert line[3].startswith(f"{100 * second['difference']:+.1f} [")
        assert line[4] == f"{second['p_value']:.4f}"
        assert [line[0] for line in lines[3::2]][:2] == [data.task.metrics[0], *data.task.metrics[1:], "MRR@10"][:2]
        assert "made-up data" in text
        assert ("images were not given" in text) is (task == "OKVQA")


@pytest.mark.parametrize("kind", ["json", "run.trec.gz"])
def test_single_results_are_compared_by_their_files(
    built: Path, compared: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    files = [compared / name / f"MSMARCO.{kind}" for name in ("bm25", "bm25", "single")]
    shutil.copytree(compared / "bm25", compared / "copy")
    files[1] = compared / "copy" / f"MSMARCO.{kind}"
    assert main(comparison(built, *files)) == 0
    out = capsys.readouterr().out
    assert out.count("MSMARCO test: ") == 1
    assert "OKVQA" not in out
    # Two of one name are told apart by their files, and do not differ.
    assert re.search(r"Recall@5 +\S*copy/MSMARCO.json .* \+0.0 \[\+0.0, \+0.0\] +1.0000", out)


def test_subsets_are_compared_with_equal_subsets(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, data in (
        ("limited", load_task("MSMARCO", built, limit=9)),
        ("nano", dataset.nano_subset(load_task("MSMARCO", built), seed=4, queries=9, passages=50)),
    ):
        evaluated(BM25(), data, tmp_path / folder / "one", top_k=40)
        evaluated(Single(), data, tmp_path / folder / "two")
    assert main(comparison(built, tmp_path / "limited" / "one", tmp_path / "limited" / "two")) == 0
    out = capsys.readouterr().out
    assert "MSMARCO test: 9 queries" in out
    assert "caution: the results have different numbers of passages kept for each query: 40, 500" in out
    assert "caution: with fewer than 30 queries" in out
    assert run_command(main, comparison(built, tmp_path / "limited" / "one", tmp_path / "nano" / "two")) == 2
    assert "share no task and split" in capsys.readouterr().err


def test_results_that_cannot_be_compared_are_refused(
    built: Path, compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, *paths: Path, data: Path = built) -> None:
        assert run_command(main, comparison(data, *paths)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.count("\n") == 1

    one, two = compared / "bm25" / "OKVQA.json", compared / "single" / "OKVQA.json"
    refused("needs two results or more", one)
    refused("share no task and split", one, compared / "single" / "MSMARCO.json")
    refused("holds no result files", one, tmp_path)
    refused("nowhere.json is no result file", one, tmp_path / "nowhere.json")
    evaluated(Single(), load_task("OKVQA", built, limit=3), compared / "short")
    refused("are of different queries (queries 30 and 3)", one, compared / "short" / "OKVQA.json")
    changed = json.loads(two.read_text()) | {"dataset": "another"}
    (compared / "changed").mkdir()
    (compared / "changed" / "OKVQA.json").write_text(json.dumps(changed))
    refused("are of different data (dataset ", one, compared / "changed")
    refused("Name the benchmark that was evaluated", compared / "changed", compared / "changed" / "OKVQA.json")
    two.with_name("OKVQA.run.trec.gz").write_bytes(run_of(compared / "bm25", "OKVQA"))
    refused("is not the run that", one, two)
    two.with_name("OKVQA.run.trec.gz").unlink()
    refused("is not there, and a comparison needs the run", one, two)


def test_an_image_task_is_refused_in_one_line_before_any_task_begins(
    built: Path, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "all", "--out", str(tmp_path / "out")]
    assert run_command(main, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: WIT asks with images")
    assert "--ignore-images" in err
    assert err.count("\n") == 1
    assert not registered[0].read
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k", "0"], "--top-k is 0; it has to be 1 or more"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--limit", "0"], "--limit is 0"),
        (["--limit", "3", "--nano"], "Pass one of them"),
        (["--workers", "-1"], "--workers is -1"),
        (["--option", "fusion"], "write it as NAME=VALUE"),
        (["--search-memory", "0"], "--search-memory is 0.0"),
        (["--search-memory", "nan"], "--search-memory is nan"),
        (["--tasks", "OKVAQ"], "Did you mean OKVQA?"),
        (["--tasks", ","], "the list of tasks is empty"),
        (["--tasks", "MSMARCO,CC"], "has no test split of CC; it has one of WIT, IGLUE, KVQA, MSMARCO, OVEN, LLaVA"),
        (["--split", "valid", "--tasks", "LLaVA"], "has no valid split of LLaVA; it has one of WIT, KVQA, MSMARCO"),
        (["--split", "dev"], "holds no task with a dev split"),
        (["--model", "singel"], "Did you mean single?"),
        (["--images", "missing"], "missing is not a folder"),
        (["--data", "missing", "--tasks", "MSMARCO"], "missing is no folder here"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["--model", "single", "--data", str(built), "--ignore-images", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("registered")
def test_a_file_is_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run_command(main, ["--model", "single", "--data", str(tmp_path / "file")]) == 2
    assert "file is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program",
    ["import m2kr", "import m2kr.evaluate; m2kr.evaluate._parser()", "import m2kr.build; m2kr.build._parser()"],
)
def test_what_only_shows_help_imports_nothing_heavy(program: str) -> None:
    heavy = ["torch", "polars", "datasets", "ranx", "transformers", "sentence_transformers", "pandas", "pyarrow"]
    program += f"\nimport json, sys\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
