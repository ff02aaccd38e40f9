"""BM25 over the words of passages and questions, through bm25s. It reads no images and no instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError

# Lucene's variant and constants, the ones most published BM25 figures are made with.
_METHOD, _K1, _B = "lucene", 1.2, 0.75


class BM25:
    """Robertson and Zaragoza's BM25 as Lucene computes it (k1 1.2, b 0.75), English stop words, no stemming.

    The instruction is left out: its words stand in front of every question alike and only add noise.
    """

    def __init__(self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        if checkpoint is not None:
            raise M2KRError("bm25 has no checkpoint: it is computed from the passages. Leave --checkpoint out.")
        self.name = "bm25"
        self.reads = frozenset({"text"})
        self.reads_instructions = False
        self.settings: dict[str, Any] = {"method": _METHOD, "k1": _K1, "b": _B, "stopwords": "en", "stemmer": None}
        self._vocabulary: dict[str, int] = {}

    def index(self, passages: Sequence[str]) -> None:
        """Take in the passages, replacing those of an earlier call."""
        import bm25s

        tokens = bm25s.tokenize(list(passages), stopwords="en", show_progress=False)
        self._vocabulary = tokens.vocab
        self._count = len(passages)
        self._index = bm25s.BM25(method=_METHOD, k1=_K1, b=_B)
        if self._vocabulary:
            self._index.index(tokens, show_progress=False)

    def rank(self, queries: Sequence[str], k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores and row numbers of the best passages, each of shape (queries, min(k, passages)).

        Every passage is scored, so that passages without a common word stand at 0, and equal scores are ordered by
        row: bm25s' own retrieval orders them arbitrarily.
        """
        import bm25s

        k = min(k, self._count)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        rows = np.zeros((len(queries), k), dtype=np.int64)
        words = bm25s.tokenize(list(queries), stopwords="en", return_ids=False, show_progress=False)
        for index, query in enumerate(words):
            ids = [self._vocabulary[word] for word in query if word in self._vocabulary]
            found = self._index.get_scores_from_ids(ids) if ids else np.zeros(self._count, dtype=np.float32)
            rows[index] = _best_rows(found, k)
            scores[index] = found[rows[index]]
        return scores, rows


def _best_rows(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the rows of the ``k`` highest scores, equal ones by row, without sorting all of them."""
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > threshold)
    level = np.flatnonzero(scores == threshold)[: k - len(above)]
    candidates = np.concatenate([above, level])
    return candidates[np.lexsort((candidates, -scores[candidates]))]
