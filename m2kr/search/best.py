"""The best passages so far of some queries, with score and row of each as one number.

Score and row are packed into one int64, where "greater" means "a higher score, or the same score and a lower row". All
keys differ, so any top-k of them is exact and stable, in whatever order passages come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
        self._keep(_keys(scores, rows), len(rows))

    def add_some(self, scores: list[Tensor], rows: list[Tensor], items: int) -> None:
        """Take in, for each query, those of ``items`` passages that can be among its best: their scores and rows."""
        from torch.nn.utils.rnn import pad_sequence

        keys = [_keys(mine, own) for mine, own in zip(scores, rows, strict=True)]
        self._keep(pad_sequence(keys, batch_first=True, padding_value=_NONE), items)

    def bar(self, lower: Tensor | None = None) -> Tensor:
        """Return the score that a passage needs to be among the best of each query, shape (queries, 1), float32.

        Args:
            lower: scores that further passages have at least, shape (queries, items), float32.
        """
        import torch

        scores = _scores(self._keys)
        if lower is not None:
            scores = torch.cat([scores, lower], dim=1)
        if scores.shape[1] < self.k:
            return torch.full((len(scores), 1), -torch.inf, device=scores.device)
        return scores.topk(self.k, dim=1, sorted=False).values.amin(1, keepdim=True)

    def found(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores, float32, and rows, int64, each of shape (queries, up to k), best first."""
        import torch

        keys = torch.sort(self._keys, dim=1, descending=True).values.cpu()
        return _scores(keys).numpy(), (0xFFFFFFFF - (keys & 0xFFFFFFFF)).numpy()

    def _keep(self, keys: Tensor, items: int) -> None:
        import torch

        self.seen += items
        keys = torch.cat([self._keys, keys], dim=1)
        self._keys = keys.topk(min(self.k, self.seen), dim=1, sorted=False).values


def _keys(scores: Tensor, rows: Tensor) -> Tensor:
    """Pack scores, shape (..., items), and the items' rows, int64, into int64 that order as results do.

    The upper half is the score as an integer of the same order, the lower half 2**32 - 1 minus the row.
    """
    import torch

    # Floats order like their bits as integers, but for the negative ones, whose order is turned round.
    # Adding zero makes -0.0 the same as 0.0.
    bits = (scores + 0.0).contiguous().view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.to(torch.int64).bitwise_left_shift_(32).add_(0xFFFFFFFF - rows)


def _scores(keys: Tensor) -> Tensor:
    import torch

    bits = (keys >> 32).to(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(torch.float32)
