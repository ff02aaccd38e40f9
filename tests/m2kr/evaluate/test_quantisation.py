"""`m2kr.evaluate` with passages of 8 bits, and the effect that it measures of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.bm25 import BM25
from m2kr import dataset
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import quantisation
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.quantisation import quantisation_effect
from m2kr.evaluate.task import evaluate_task
from m2kr.results.record import read_result
from m2kr.results.run import Run
from m2kr.search.exact import search
from m2kr.search.ragged import Ragged
from m2kr.search.store import EmbeddingStore
from tests.m2kr.evaluating import Multi, Single, comparable, evaluated, kill, run_of, sorted_by_id
from tests.tolerance import assert_within, maxsim_table


class Close(Single):
    """Vectors of passages differ by less than 8 bits can tell."""

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return np.float32(1) + np.float32(1e-3) * super().encode_document(inputs, batch_size)


def in_8_bits(vectors: np.ndarray) -> np.ndarray:
    """What `m2kr.search.int8` stands for, plainly."""
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
    made = make()
    _, errors = maxsim_table(
        made.encode(okvqa.query_texts(instructions=False)), Rounded().encode_document(sorted_by_id(okvqa))
    )
    # Of two orders of the same numbers, each place differs by no more than the numbers do, here in both runs.
    assert_within(one.scores, two.scores, 2 * errors.max(axis=1, keepdims=True))


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
    result = evaluate_task(make(), data, tmp_path, TaskOptions(ignore_images=True, store_dtype="int8"))
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
    monkeypatch.setattr(quantisation, "_SAMPLED", 7)
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
    whole = evaluated(Multi(), okvqa, tmp_path / "whole", store_dtype="int8")
    for name in ("m2kr.evaluate.quantisation.quantisation_effect", "m2kr.evaluate.task.score"):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(name, kill)
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


# --- the effect on given queries and passages ---


def made(count: int, spread: float) -> tuple[list[np.ndarray], list[np.ndarray], list[set[int]]]:
    """Unit vectors: passages in pairs that are ``spread`` apart, and for each a query that is part of the first."""
    rng = np.random.default_rng(1)
    passages, queries = [], []
    for _ in range(count):
        one = unit(rng.standard_normal((4, 32)))
        passages += [one, unit(one + spread * rng.standard_normal(one.shape))]
        queries.append(one[:3])
    return queries, passages, [{2 * number} for number in range(count)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_effect_is_small_where_passages_are_far_apart_and_large_where_they_are_close() -> None:
    queries, passages, positives = made(60, 0.5)
    effect = quantisation_effect(queries, Ragged.from_list(passages), positives, k=1)
    assert effect.queries == 60
    assert effect.recall == effect.recall_int8 == effect.overlap == 1
    assert effect.changed == 0
    assert str(effect) == (
        "8-bit passages, 60 queries: Recall@1 100.00 (100.00 before, 0 queries changed), "
        "100.0 % of the first 1 the same"
    )
    queries, passages, positives = made(60, 1e-3)  # below the resolution of 8 bits
    effect = quantisation_effect(queries, Ragged.from_list(passages), positives, k=1)
    assert effect.recall == 1
    assert effect.changed > 0
    assert effect.recall_int8 == effect.overlap == pytest.approx(1 - effect.changed / 60)
    assert quantisation_effect(queries, Ragged.from_list(passages), positives, k=2).recall_int8 == 1


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_the_effect_is_that_of_an_8_bit_store(tmp_path: Path, kind: str) -> None:
    queries, passages, positives = made(30, 0.02)
    stores = [EmbeddingStore(tmp_path / dtype, "key", kind=kind, dtype=dtype) for dtype in ("float32", "int8")]  # type: ignore[arg-type]
    given = np.stack([query[0] for query in queries]) if kind == "single" else queries
    for store in stores:
        for start in (0, 25):
            part = passages[start : start + 25] if start == 0 else passages[25:]
            store.append(np.stack([item[0] for item in part]) if kind == "single" else part)
    effect = quantisation_effect(given, stores[0], positives, k=3)
    found = [search(given, store, 3)[1] for store in stores]
    hits = [[bool(want & set(row.tolist())) for want, row in zip(positives, rows, strict=True)] for rows in found]
    assert (effect.recall, effect.recall_int8) == (np.mean(hits[0]), np.mean(hits[1]))
    same = [len(set(one.tolist()) & set(two.tolist())) / 3 for one, two in zip(*found, strict=True)]
    assert effect.overlap == pytest.approx(np.mean(same))


def test_positives_of_other_queries_are_refused() -> None:
    queries, passages, positives = made(3, 0.5)
    with pytest.raises(M2KRError, match="there are 3 queries, and positives of 2"):
        quantisation_effect(queries, Ragged.from_list(passages), positives[:2])
    with pytest.raises(M2KRError, match="there are 0 queries"):
        quantisation_effect([], Ragged.from_list(passages), [])
