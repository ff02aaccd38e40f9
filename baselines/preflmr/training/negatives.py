"""Hard negatives: passages that BM25 takes for answers and that are none (as in DPR, section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from baselines.bm25 import BM25
from m2kr.common.files import atomic, digest
from m2kr.common.locks import exclusive
from m2kr.common.progress import progress
from m2kr.dataset import TaskData
from m2kr.metrics import contains_answer

Rows: TypeAlias = npt.NDArray[np.int64]

_AT_ONCE = 256
_DEEPER = 2
# Rows ranked for each that is kept, to make up for those that turn out to be positive.


def mine(data: TaskData, depth: int, folder: Path, *, quiet: bool = False) -> Rows:
    """Return the passages that BM25 ranks first for each query and that are no answer to it.

    What is searched for is the question and the query's positive passage together: questions about pictures do not name
    what they are about, and many queries have no question. Passages that hold an answer are left out, since they may be
    positives that nobody marked.

    Args:
        data: a split with its passages.
        depth: rows to keep for each query.
        folder: where the result is kept, under a name that stands for the data and the depth.
        quiet: no progress.

    Returns:
        Row numbers of passages, ``(queries, depth)`` int64, best first, -1 where there are fewer.
    """
    kept = folder / f"{data.task.key}-{digest(data.fingerprint, depth)[:16]}.npy"
    if not kept.is_file():
        with exclusive(folder / f".{kept.name}.lock", kept, wait=True, quiet=quiet):
            if not kept.is_file():
                found = _mined(data, depth, quiet=quiet)
                with atomic(kept) as file:
                    np.save(file, found, allow_pickle=False)
    known: Rows = np.load(kept, allow_pickle=False)
    return known


def _mined(data: TaskData, depth: int, *, quiet: bool) -> Rows:
    contents = data.passages["passage_content"].to_list()
    rows = {name: row for row, name in enumerate(data.passages["passage_id"])}
    bm25 = BM25()
    bm25.index(contents)
    answers = data.answers or {}
    questions = data.queries["question"].cast(pl.String).fill_null("").to_list()
    names = data.queries["question_id"].to_list()
    found = np.full((len(names), depth), -1, dtype=np.int64)
    with progress(len(names), f"{data.task.key} negatives", unit="queries", quiet=quiet) as bar:
        for first in range(0, len(names), _AT_ONCE):
            batch = range(first, min(first + _AT_ONCE, len(names)))
            positives = [[rows[name] for name in data.qrels[names[row]] if name in rows] for row in batch]
            searched = [
                " ".join([questions[row], *(contents[positive] for positive in own[:1])])
                for row, own in zip(batch, positives, strict=True)
            ]
            _, ranked = bm25.rank(searched, _DEEPER * depth)
            for row, own, candidates in zip(batch, positives, ranked, strict=True):
                excluded, wanted = set(own), answers.get(names[row], [])
                good = [
                    int(passage)
                    for passage in candidates
                    if passage not in excluded and not contains_answer(contents[passage], wanted)
                ][:depth]
                found[row, : len(good)] = good
            bar.update(len(batch))
    return found
