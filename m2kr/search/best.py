"""The best passages so far of some queries, with score and row of each as one number.

All keys (`m2kr.search.order`) differ, so any top-k of them is exact and stable, in whatever order passages come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.search.order import packed, unpacked

if TYPE_CHECKING:
    from torch import Tensor

_NONE = -(1 << 63)  # less than any key


class Best:
    """The up to ``k`` best passages so far of each of some queries.

    Args:
        queries: how many.
        k: passages to keep for each.
        device: as torch names it.
    """

    def __init__(self, queries: int, k: int, device: str) -> None:
        import torch

        self.k = k
        self.seen = 0
        self._keys = torch.empty((queries, 0), dtype=torch.int64, device=device)

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take in passages of these rows, int64, shape (items,); ``scores`` are of shape (queries, items)."""
        self._keep(_best_keys(scores, rows, self.k), len(rows))

    def add_some(self, scores: list[Tensor], rows: list[Tensor], items: int) -> None:
        """Take in, for each query, those of ``items`` passages that can be among its best: their scores and rows."""
        from torch.nn.utils.rnn import pad_sequence

        keys = [packed(mine, own) for mine, own in zip(scores, rows, strict=True)]
        self._keep(pad_sequence(keys, batch_first=True, padding_value=_NONE), items)

    def add_marked(self, scores: Tensor, rows: Tensor, marked: Tensor, items: int) -> None:
        """Take in those of ``items`` passages that are marked for a query, each of shape (queries, passages)."""
        self._keep(packed(scores, rows).masked_fill_(~marked, _NONE), items)

    def bar(self, lower: Tensor | None = None) -> Tensor:
        """Return the score that a passage needs to be among the best of each query, shape (queries, 1), float32.

        Args:
            lower: scores that further passages have at least, shape (queries, items), float32.
        """
        import torch

        scores, _ = unpacked(self._keys)
        if lower is not None:
            scores = torch.cat([scores, lower], dim=1)
        if scores.shape[1] < self.k:
            return torch.full((len(scores), 1), -torch.inf, device=scores.device)
        return scores.topk(self.k, dim=1, sorted=False).values.amin(1, keepdim=True)

    def found(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores, float32, and rows, int64, each of shape (queries, up to k), best first."""
        import torch

        scores, rows = unpacked(torch.sort(self._keys, dim=1, descending=True).values.cpu())
        return scores.numpy(), rows.numpy()

    def _keep(self, keys: Tensor, items: int) -> None:
        import torch

        self.seen += items
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys = keys.topk(min(self.k, self.seen), dim=1, sorted=False).values


def _best_keys(scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the keys of the ``k`` best of each query, or of all where there are no more, in any order.

    Only the best scores are packed: to pack all took longer than the product of single vectors. Where the next one
    equals the least of them, all of the query are packed, since then rows decide.
    """
    if scores.shape[1] <= k:
        return packed(scores, rows)
    scores = scores.contiguous()
    values, places = scores.topk(k + 1, dim=1)
    keys = packed(values[:, :k], rows[places[:, :k]])
    tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
    if len(tied):
        keys[tied] = packed(scores[tied], rows).topk(k, dim=1, sorted=False).values
    return keys
