"""Token embeddings in memory: the vectors of many items back to back.

A late-interaction retriever gives each text or image a variable number of vectors. `Ragged` holds them without padding:
padding would have to be masked in every later step, and PreFLMR's passages vary from a handful of vectors to several
hundred.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError, first_line

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "npt.NDArray[Any] | Tensor"


def as_tensor(array: Array) -> Tensor:
    """Return a NumPy array (memory-mapped or not) or a tensor as a tensor, sharing memory and without gradient.

    Only an array that torch cannot share, as its rows are turned round, is copied.

    Raises:
        M2KRError: it does not hold real numbers of a type that torch has.
    """
    import torch

    try:
        if isinstance(array, torch.Tensor):
            tensor = array.detach()
        else:
            shared = array.copy() if min(array.strides, default=0) < 0 else array
            with warnings.catch_warnings():
                # torch warns of arrays that are not to be written, as a tensor could be; nothing here writes to one.
                warnings.simplefilter("ignore", UserWarning)
                tensor = torch.from_numpy(shared)
        if tensor.is_complex() or tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
            raise TypeError("no product of such numbers can be ordered")
    except (TypeError, ValueError) as error:
        raise M2KRError(
            f"embeddings of type {array.dtype} cannot be used ({first_line(error)}). Pass float32, float16 or bfloat16."
        ) from error
    return tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """The token embeddings of ``n`` items, back to back.

    Attributes:
        vectors: shape (total, dim); a NumPy array, possibly memory-mapped, or a torch tensor.
        offsets: shape (n + 1,), int64; item ``i`` owns ``vectors[offsets[i]:offsets[i + 1]]``. An item may own none.

    Raises:
        M2KRError: shapes that do not fit together.
    """

    vectors: Array
    offsets: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2:
            raise M2KRError(f"vectors must have two dimensions (total, dim), not the shape {tuple(self.vectors.shape)}")
        offsets = np.asarray(self.offsets, dtype=np.int64)
        object.__setattr__(self, "offsets", offsets)
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(self.vectors):
            raise M2KRError(f"offsets must run from 0 to the number of vectors, which is {len(self.vectors)}")
        if (np.diff(offsets) < 0).any():
            raise M2KRError(f"offsets must not decrease, but do after item {int(np.argmax(np.diff(offsets) < 0))}")

    @classmethod
    def from_lengths(cls, vectors: Array, lengths: npt.ArrayLike) -> Ragged:
        """Return the items that own ``lengths[0]``, ``lengths[1]``, ... of the rows of ``vectors``, without copying."""
        offsets = np.zeros(len(np.asarray(lengths)) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(vectors, offsets)

    @classmethod
    def one_each(cls, vectors: Array) -> Ragged:
        """Return ``vectors``, shape (n, dim), as n items of one vector each, without copying."""
        return cls(vectors, np.arange(len(vectors) + 1))

    @classmethod
    def from_list(cls, items: Sequence[Array], *, first: int = 0) -> Ragged:
        """Return a copy of ``items``, arrays or tensors of shape (tokens_i, dim), as one `Ragged`.

        An item without tokens may have any ``dim``. Tensors give a tensor, on the CPU; arrays an array.
        ``first`` is the row of the first item, for messages.

        Raises:
            M2KRError: an item is not two-dimensional, or its ``dim`` differs from that of the others.
        """
        dim: int | None = None
        for number, item in enumerate(items, start=first):
            if getattr(item, "ndim", None) != 2:
                shape = tuple(getattr(item, "shape", ())) or type(item).__name__
                raise M2KRError(f"item {number} must be an array of shape (tokens, dim), but is {shape}")
            if len(item) and dim is None:
                dim = item.shape[1]
            if len(item) and item.shape[1] != dim:
                raise M2KRError(f"item {number} has dimension {item.shape[1]}, but the items before it have {dim}")
        lengths = [len(item) for item in items]
        if dim is None:
            return cls.from_lengths(np.zeros((0, items[0].shape[1] if items else 0), dtype=np.float32), lengths)
        filled = [item for item in items if len(item)]
        if all(isinstance(item, np.ndarray) for item in filled):
            return cls.from_lengths(np.concatenate(filled), lengths)
        import torch

        return cls.from_lengths(torch.cat([as_tensor(item).cpu() for item in filled]), lengths)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """Return the items of all ``parts``, in order; a copy, unless there is only one part."""
        if len(parts) == 1:
            return parts[0]
        joined = cls.from_list([part.vectors for part in parts])
        return cls.from_lengths(joined.vectors, np.concatenate([np.zeros(0, np.int64), *(p.lengths for p in parts)]))

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Vectors of each item, shape (n,), int64."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, item: int) -> Array:
        """Return the vectors of one item, shape (tokens, dim), without copying. Negative numbers count from the end."""
        position = item + len(self) if item < 0 else item
        if not 0 <= position < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        return self.vectors[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[Array]:
        return (self[item] for item in range(len(self)))

    def rows(self, start: int, stop: int) -> Ragged:
        """Return the items from ``start`` up to and not including ``stop``, without copying vectors.

        Both are cut to the range of items, as in a slice of a list; negative numbers count from the end.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        offsets = self.offsets[start : max(start, stop) + 1]
        return Ragged(self.vectors[offsets[0] : offsets[-1]], offsets - offsets[0])

    def blocks(self, most: int) -> Iterator[Ragged]:
        """Yield all items in order, ``most`` vectors at a time or fewer, without copying; a longer item by itself."""
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + most, side="right")) - 1
            stop = max(stop, start + 1)
            yield self.rows(start, stop)
            start = stop


def gather(vectors: Tensor, source: npt.NDArray[np.int64], out: Tensor) -> None:
    """Copy vectors on the CPU, shape (n, dim), from where ``source`` says into float32, shape (len(source), dim)."""
    import torch

    where = torch.from_numpy(source)
    if vectors.dtype == torch.float32:
        torch.index_select(vectors, 0, where, out=out)
    else:
        out.copy_(vectors.index_select(0, where))


def first_not_finite(items: Ragged) -> int | None:
    """Return the first item that holds NaN or infinity, or None."""
    import torch

    vectors = as_tensor(items.vectors)
    # A sum is NaN or infinite if any number is, and costs no memory. Finite numbers can also add up to infinity,
    # so the slow and exact test has the last word.
    if torch.isfinite(vectors.sum(dtype=torch.float32)):
        return None
    bad = torch.nonzero(~torch.isfinite(vectors).all(dim=1))
    return None if len(bad) == 0 else int(np.searchsorted(items.offsets, bad[0].item(), side="right")) - 1
