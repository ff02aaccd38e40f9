"""Token embeddings in memory and on disk: ragged, memory-mapped, appendable, resumable.

A late-interaction retriever gives each text or image a variable number of vectors. `Ragged` holds those of many items
back to back, without padding: padding would have to be masked in every later step, and PreFLMR's passages vary from
a handful of vectors to several hundred. `EmbeddingStore` keeps them on disk while an encoder runs for hours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from m2kr.common.files import atomic, write_json
from m2kr.errors import M2KRError
from m2kr.search.int8 import quantise, widen

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "npt.NDArray[Any] | Tensor"
Kind: TypeAlias = Literal["multi", "single"]
StoredType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]


def as_tensor(array: Array) -> Tensor:
    """Return a NumPy array (memory-mapped or not) or a tensor as a tensor, sharing memory and without gradient."""
    import torch

    if isinstance(array, torch.Tensor):
        return array.detach()
    if not array.flags.writeable:
        # torch warns about such arrays because a tensor could be written through; nothing here writes through one.
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array)
    return torch.from_numpy(array)


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


_BYTES: dict[StoredType, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # of a number
_SCALE_BYTES = 4


class EmbeddingStore:
    """Embeddings on disk, written in chunks by an encoder that may be stopped at any time.

    A chunk is a shard: ``<first row>.vectors``, the numbers as they lie in memory (little-endian, row by row), and
    ``<first row>.lengths.npy``, the vectors of each item. Both appear under their names only when complete, the
    lengths last, so a shard exists if and only if its lengths do. After a crash the store holds exactly the chunks
    whose `append` had returned, or at most the one that was about to. Only one process may append to a store.

    ``meta.json`` holds the key and the form. Of the form "int8", ``<first row>.vectors`` has a float32 scale for each
    vector, and after all of them the vectors in 8 bits: dim + 4 bytes a vector. What is read back is float32, each
    number within 1/254 of the largest absolute number of its vector; see `m2kr.search.int8`, also for how to measure the
    effect.

    Args:
        folder: where the files lie; made if missing. Files of other names in it are left alone.
        key: identifies the content: a hash of model, data and settings. A store of another key is discarded.
        kind: "multi", several vectors an item, or "single", one.
        dim: numbers in a vector; None takes it from the files, or else from the first chunk.
        dtype: the stored form. Appended numbers are converted to it.

    Raises:
        M2KRError: the folder holds this key in another kind, dimension or dtype; a shard is damaged; the folder cannot
            be written.
    """

    def __init__(
        self,
        folder: str | Path,
        key: str,
        *,
        kind: Kind = "multi",
        dim: int | None = None,
        dtype: StoredType = "float32",
    ) -> None:
        if kind not in ("multi", "single"):
            raise M2KRError(f"kind must be 'multi' or 'single', not {kind!r}")
        if dtype not in _BYTES:
            raise M2KRError(f"dtype must be 'float32', 'float16', 'bfloat16' or 'int8', not {dtype!r}")
        self.folder = Path(folder)
        self.key = key
        self.kind: Kind = kind
        self.dim = dim
        self.dtype: StoredType = dtype
        self._shards: list[tuple[int, int]] = []  # (first row, rows) of each, in order
        self._swept = False
        meta = self._read_meta()
        if meta is None or meta.get("key") != key:
            self._discard()
            return
        for name, mine in (("kind", kind), ("dtype", dtype), ("dim", dim)):
            if mine is not None and meta.get(name) not in (None, mine):
                raise M2KRError(
                    f"{self.folder} holds embeddings of this key with {name} {meta[name]!r}, not {mine!r}: "
                    f"open it with {name}={meta[name]!r}, or let the key depend on {name}"
                )
        self.dim = meta.get("dim") if dim is None else dim
        while (lengths_file := self._path(self.rows, "lengths.npy")).exists():
            self._shards.append((self.rows, len(self._checked_lengths(lengths_file))))

    @property
    def rows(self) -> int:
        """Items stored so far: the row at which an encoder goes on."""
        return sum(self._shards[-1]) if self._shards else 0

    def __len__(self) -> int:
        return self.rows

    def append(self, embeddings: Ragged | Sequence[Array] | Array) -> None:
        """Write the next items as one shard. When this returns, they survive a crash of the process.

        Args:
            embeddings: for kind "multi" a `Ragged` or a list of (tokens_i, dim) arrays or tensors, for "single" an
                (n, dim) array or tensor. Nothing is written for no items.

        Raises:
            M2KRError: another dimension or kind than the store's, numbers that are not finite in the stored form, or
                a disk that is full.
        """
        import torch

        chunk = self._as_ragged(embeddings)
        if len(chunk) == 0:
            return
        if self.dim is None and len(chunk.vectors):
            self.dim = chunk.dim
            self._write_meta()
        if len(chunk.vectors) and chunk.dim != self.dim:
            raise M2KRError(
                f"embeddings of dimension {chunk.dim} cannot be added to {self.folder}, which has {self.dim}"
            )
        dtype = torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)
        stored = as_tensor(chunk.vectors).to("cpu", dtype).contiguous()
        if (row := first_not_finite(Ragged(stored, chunk.offsets))) is not None:
            raise M2KRError(
                f"the embeddings of row {self.rows + row} hold NaN or infinity, or numbers too large for "
                f"{'float32' if self.dtype == 'int8' else self.dtype}"
            )
        self._sweep()
        first = self.rows
        if self.dtype == "bfloat16":
            stored = stored.view(torch.int16)  # NumPy has no bfloat16: keep the bit patterns
        parts: list[npt.NDArray[Any]] = [stored.numpy()]
        if self.dtype == "int8":
            values, scales = quantise(stored.numpy())
            parts = [scales, values]
        # Not ndarray.tofile, whose error on a full disk does not say so.
        with atomic(self._path(first, "vectors")) as file:
            for part in parts:
                file.write(part.reshape(-1).view(np.uint8).data)
        with atomic(self._path(first, "lengths.npy")) as file:
            np.save(file, chunk.lengths, allow_pickle=False)
        self._shards.append((first, len(chunk)))

    def shards(self, *, most: int = 1 << 16) -> Iterator[Ragged | Array]:
        """Yield each shard, memory-mapped, in row order: a `Ragged`, or an (n, dim) array for kind "single".

        Arrays are NumPy's, except that bfloat16 comes as torch tensors. Memory is taken only for what is looked at.
        Of the form "int8" a shard comes in parts, copies in float32 of at most ``most`` vectors, a longer item alone.

        Raises:
            M2KRError: a file of a shard is missing, or its size does not fit the lengths.
        """
        for first, _ in self._shards:
            for part in self._parts(first, most):
                yield part if self.kind == "multi" else part.vectors

    def load(self) -> Ragged | Array:
        """Return everything as one `Ragged`, or one (rows, dim) array for kind "single".

        A store of one shard is memory-mapped; several are copied into memory (use `shards` for more than fits there),
        and so is any of the form "int8", as float32.

        Raises:
            M2KRError: as `shards`.
        """
        parts = [part for first, _ in self._shards for part in self._parts(first, 1 << 16)]
        whole = Ragged.concatenate(parts) if parts else Ragged.from_lengths(self._nothing(), [])
        return whole if self.kind == "multi" else whole.vectors

    def _path(self, first: int, suffix: str) -> Path:
        return self.folder / f"{first:012d}.{suffix}"

    def _as_ragged(self, embeddings: Ragged | Sequence[Array] | Array) -> Ragged:
        is_array = hasattr(embeddings, "ndim")
        if self.kind == "single":
            if not is_array or embeddings.ndim != 2:  # type: ignore[union-attr]
                raise M2KRError(f"{self.folder} holds one vector an item: append an array of shape (n, dim)")
            return Ragged.from_lengths(embeddings, np.ones(len(embeddings), np.int64))  # type: ignore[arg-type]
        if is_array:
            raise M2KRError(f"{self.folder} holds several vectors an item: append a list of (tokens, dim) arrays")
        return embeddings if isinstance(embeddings, Ragged) else Ragged.from_list(embeddings)  # type: ignore[arg-type]

    def _parts(self, first: int, most: int) -> Iterator[Ragged]:
        """Yield the shard that begins with a row; of the form "int8" in parts of ``most`` vectors."""
        path = self._path(first, "vectors")
        lengths = self._checked_lengths(self._path(first, "lengths.npy"))
        total = int(lengths.sum())
        if self.dtype != "int8" or not total:
            yield Ragged.from_lengths(self._map(path, total), lengths)
            return
        scales = np.memmap(path, "<f4", "r", shape=(total,))
        values = np.memmap(path, np.int8, "r", offset=total * _SCALE_BYTES, shape=(total, self.dim or 0))
        done = 0
        for part in Ragged.from_lengths(values, lengths).blocks(most):
            some = slice(done, done + len(part.vectors))
            yield Ragged(widen(values[some], scales[some]), part.offsets)
            done = some.stop

    def _map(self, path: Path, total: int) -> Array:
        """Map ``total`` vectors. Copy-on-write: torch wants writeable memory, and the file must never change."""
        if not total:
            return self._nothing()  # an empty file cannot be mapped
        numbers = np.dtype("<i2" if self.dtype == "bfloat16" else f"<{np.dtype(self.dtype).str[1:]}")
        array = np.memmap(path, numbers, "c", shape=(total, self.dim or 0))
        if self.dtype != "bfloat16":
            return array
        import torch

        return as_tensor(array).view(torch.bfloat16)

    def _nothing(self) -> Array:
        """Return no vectors, in the type that `shards` gives."""
        shape = (0, self.dim or 0)
        if self.dtype == "bfloat16":
            import torch

            return torch.empty(shape, dtype=torch.bfloat16)
        return np.zeros(shape, np.float32 if self.dtype == "int8" else np.dtype(self.dtype))

    def _checked_lengths(self, path: Path) -> npt.NDArray[np.int64]:
        """Read the lengths of a shard and check them against the size of its vectors."""
        vectors = path.with_name(path.name.replace(".lengths.npy", ".vectors"))
        resume = "the encoder then goes on from its first row"
        try:
            lengths: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise M2KRError(f"{path} is damaged ({error}): delete it, {resume}") from error
        bytes_each = (self.dim or 0) * _BYTES[self.dtype] + (_SCALE_BYTES if self.dtype == "int8" else 0)
        expected = int(lengths.sum()) * bytes_each
        found = vectors.stat().st_size if vectors.exists() else None
        if found != expected:
            size = "is missing" if found is None else f"has {found} bytes"
            raise M2KRError(f"{vectors} {size}, but {path.name} calls for {expected}: delete {path}, {resume}")
        return lengths

    def _read_meta(self) -> dict[str, Any] | None:
        path = self.folder / "meta.json"
        try:
            meta = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise M2KRError(f"{path} is not JSON ({error}): delete it, the embeddings are then made anew") from error
        return meta if isinstance(meta, dict) else None

    def _write_meta(self) -> None:
        meta = {"format": 1, "key": self.key, "kind": self.kind, "dim": self.dim, "dtype": self.dtype}
        write_json(self.folder / "meta.json", meta)

    def _discard(self) -> None:
        """Delete what another key left. A kill on the way leaves the old key, so the next opening discards again."""
        self._delete(self.folder.glob("[0-9]*.lengths.npy"))
        self._delete(self.folder.glob("[0-9]*.vectors"))
        self._write_meta()

    def _sweep(self) -> None:
        """Delete, before the first write, what a kill left and shards cut off by the deletion of one before them.

        Not when opening: a reader must not delete the files that another process is writing.
        """
        if self._swept:
            return
        mine = {self._path(first, suffix) for first, _ in self._shards for suffix in ("lengths.npy", "vectors")}
        for pattern in ("[0-9]*.lengths.npy", "[0-9]*.vectors", ".[0-9]*.tmp"):
            self._delete(path for path in self.folder.glob(pattern) if path not in mine)
        self._swept = True

    @staticmethod
    def _delete(paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)


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
