"""Token embeddings on disk: memory-mapped, appendable, resumable, while an encoder runs for hours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from m2kr.common.files import atomic, write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError
from m2kr.search.int8 import quantise, widen
from m2kr.search.ragged import Array, Ragged, as_tensor, first_not_finite

Kind: TypeAlias = Literal["multi", "single"]
StoredType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]

# Numbers as they lie in files. NumPy has no bfloat16: its bit patterns are kept.
_NUMBERS: dict[StoredType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
}
_SCALES = np.dtype("<f4")  # of vectors in 8 bits


class EmbeddingStore:
    """Embeddings on disk, written in chunks by an encoder that may be stopped at any time.

    A chunk is a shard: ``<first row>.vectors``, the numbers as they lie in memory (little-endian, row by row), and
    ``<first row>.lengths.npy``, the vectors of each item. Both appear under their names only when complete, the
    lengths last, so a shard exists if and only if its lengths do. After a crash the store holds exactly the chunks
    whose `append` had returned, or at most the one that was about to. Only one process may append to a store.

    ``meta.json`` holds the key and the form. Of the form "int8", ``<first row>.vectors`` has a float32 scale for each
    vector, and after all of them the vectors in 8 bits: dim + 4 bytes a vector. What is read back is float32, each
    number within 1/254 of the largest absolute number of its vector; see `m2kr.search.int8`.

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
        if dtype not in _NUMBERS:
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
        self._find()

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
        chunk = _as_ragged(embeddings, self.kind, self.folder)
        if len(chunk) == 0:
            return
        if self.dim is None and len(chunk.vectors):
            self.dim = chunk.dim
            self._write_meta()
        if len(chunk.vectors) and chunk.dim != self.dim:
            raise M2KRError(
                f"embeddings of dimension {chunk.dim} cannot be added to {self.folder}, which has {self.dim}"
            )
        first = self.rows
        numbers = _numbers(chunk, self.dtype, first)
        self._sweep()
        _write(self.folder, first, numbers, chunk)
        self._shards.append((first, len(chunk)))

    def take_in(self, dim: int | None) -> None:
        """Take in shards that `write_shard` has written since.

        Args:
            dim: numbers in a vector of theirs; None where they have no vectors.

        Raises:
            M2KRError: a shard is damaged, or of another dimension than the store's.
        """
        if dim is not None and self.dim not in (None, dim):
            raise M2KRError(f"embeddings of dimension {dim} cannot be added to {self.folder}, which has {self.dim}")
        if dim is not None:
            self.dim = dim
            self._write_meta()
        self._find()

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
        whole = Ragged.concatenate(parts) if parts else Ragged.from_lengths(self._map(None, 0), [])
        return whole if self.kind == "multi" else whole.vectors

    def part(self, first: int, stop: int) -> Ragged | Array:
        """Return the items of some rows, memory-mapped where one shard holds them all and is not of the form "int8".

        Raises:
            M2KRError: as `shards`.
        """
        found = [Ragged.from_lengths(self._map(None, 0), [])]
        for begin, count in self._shards:
            if begin < stop and first < begin + count:
                for part in self._parts(begin, 1 << 16):
                    found.append(part.rows(max(0, first - begin), max(0, min(stop - begin, len(part)))))
                    begin += len(part)
        found = [each for each in found if len(each)] or found[:1]
        whole = found[0] if len(found) == 1 else Ragged.concatenate(found)
        return whole if self.kind == "multi" else whole.vectors

    def _find(self) -> None:
        while (lengths_file := self._path(self.rows, "lengths.npy")).exists():
            vectors = self._path(self.rows, "vectors")
            if self.dim is None and vectors.exists() and vectors.stat().st_size:
                break  # of `write_shard`, and not yet taken in
            self._shards.append((self.rows, len(self._checked_lengths(lengths_file))))

    def _path(self, first: int, suffix: str) -> Path:
        return _path(self.folder, first, suffix)

    def _parts(self, first: int, most: int) -> Iterator[Ragged]:
        """Yield the shard that begins with a row; of the form "int8" in parts of ``most`` vectors."""
        path = self._path(first, "vectors")
        lengths = self._checked_lengths(self._path(first, "lengths.npy"))
        total = int(lengths.sum())
        if self.dtype != "int8" or not total:
            yield Ragged.from_lengths(self._map(path, total), lengths)
            return
        scales = np.memmap(path, _SCALES, "r", shape=(total,))
        values = np.memmap(path, np.int8, "r", offset=scales.nbytes, shape=(total, self.dim or 0))
        done = 0
        for part in Ragged.from_lengths(values, lengths).blocks(most):
            some = slice(done, done + len(part.vectors))
            yield Ragged(widen(values[some], scales[some]), part.offsets)
            done = some.stop

    def _map(self, path: Path | None, total: int) -> Array:
        """Map ``total`` vectors. Copy-on-write: torch wants writeable memory, and the file must never change."""
        shape = (total, self.dim or 0)
        numbers = np.dtype(np.float32) if self.dtype == "int8" else _NUMBERS[self.dtype]
        # An empty file cannot be mapped.
        array = np.memmap(path, numbers, "c", shape=shape) if path and total else np.zeros(shape, numbers)
        if self.dtype != "bfloat16":
            return array
        import torch

        return as_tensor(array).view(torch.bfloat16)

    def _checked_lengths(self, path: Path) -> npt.NDArray[np.int64]:
        """Read the lengths of a shard and check them against the size of its vectors."""
        vectors = path.with_name(path.name.replace(".lengths.npy", ".vectors"))
        resume = "the encoder then goes on from its first row"
        try:
            lengths: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise M2KRError(f"{path} is damaged ({error}): delete it, {resume}") from error
        bytes_each = (self.dim or 0) * _NUMBERS[self.dtype].itemsize
        bytes_each += _SCALES.itemsize if self.dtype == "int8" else 0
        expected = int(lengths.sum()) * bytes_each
        found = vectors.stat().st_size if vectors.exists() else None
        if found != expected:
            size = "is missing" if found is None else f"has {found} bytes"
            raise M2KRError(f"{vectors} {size}, but {path.name} calls for {expected}: delete {path}, {resume}")
        return lengths

    def _read_meta(self) -> dict[str, Any] | None:
        path = self.folder / "meta.json"
        if not path.exists():
            return None
        return read_json(path, dict[str, Any], "note of embeddings", "Delete it; the embeddings are then made anew.")

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


def write_shard(
    folder: Path, first: int, embeddings: Ragged | Sequence[Array] | Array, kind: Kind, dtype: StoredType
) -> int | None:
    """Write the items from a row on as one shard of a store, of which several processes write shards in any order.

    `EmbeddingStore.take_in` then makes them the store's.

    Args:
        folder: of the store.
        first: row of the first item.
        embeddings: as in `EmbeddingStore.append`.
        kind: of the store.
        dtype: its stored form.

    Returns:
        Numbers in a vector; None where there is none.

    Raises:
        M2KRError: as `EmbeddingStore.append`.
    """
    chunk = _as_ragged(embeddings, kind, folder)
    _write(folder, first, _numbers(chunk, dtype, first), chunk)
    return chunk.dim if len(chunk.vectors) else None


def has_shard(folder: Path, first: int) -> bool:
    """Whether a store has the shard that begins with a row."""
    return _path(folder, first, "lengths.npy").is_file()


def _path(folder: Path, first: int, suffix: str) -> Path:
    return folder / f"{first:012d}.{suffix}"


def _write(folder: Path, first: int, numbers: list[npt.NDArray[Any]], chunk: Ragged) -> None:
    # Not ndarray.tofile, whose error on a full disk does not say so.
    with atomic(_path(folder, first, "vectors")) as file:
        for part in numbers:
            file.write(part.reshape(-1).view(np.uint8).data)
    with atomic(_path(folder, first, "lengths.npy")) as file:
        np.save(file, chunk.lengths, allow_pickle=False)


def as_stored(
    embeddings: Ragged | Sequence[Array] | Array, kind: Kind, dtype: StoredType, *, first: int = 0
) -> Ragged | Array:
    """Return embeddings as a store of this kind and form gives them back, without a store.

    Args:
        embeddings: as in `EmbeddingStore.append`.
        kind: as there.
        dtype: the stored form.
        first: row of the first item, for messages.

    Raises:
        M2KRError: as `EmbeddingStore.append`.
    """
    chunk = _as_ragged(embeddings, kind, "a store")
    numbers = _numbers(chunk, dtype, first)
    vectors: Array = widen(numbers[1], numbers[0]) if dtype == "int8" else numbers[0]
    if dtype == "bfloat16":
        import torch

        vectors = as_tensor(vectors).view(torch.bfloat16)
    return Ragged(vectors, chunk.offsets) if kind == "multi" else vectors


def _as_ragged(embeddings: Ragged | Sequence[Array] | Array, kind: Kind, store: object) -> Ragged:
    is_array = hasattr(embeddings, "ndim")
    if kind == "single":
        if not is_array or embeddings.ndim != 2:  # type: ignore[union-attr]
            raise M2KRError(f"{store} holds one vector an item: append an array of shape (n, dim)")
        return Ragged.one_each(embeddings)  # type: ignore[arg-type]
    if is_array:
        raise M2KRError(f"{store} holds several vectors an item: append a list of (tokens, dim) arrays")
    return embeddings if isinstance(embeddings, Ragged) else Ragged.from_list(embeddings)  # type: ignore[arg-type]


def _numbers(chunk: Ragged, dtype: StoredType, first: int) -> list[npt.NDArray[Any]]:
    """Return vectors as their numbers are stored; in 8 bits, their scales before them."""
    import torch

    form = "float32" if dtype == "int8" else dtype
    stored = as_tensor(chunk.vectors).to("cpu", getattr(torch, form)).contiguous()
    if (row := first_not_finite(Ragged(stored, chunk.offsets))) is not None:
        raise M2KRError(f"the embeddings of row {first + row} hold NaN or infinity, or numbers too large for {form}")
    numbers: npt.NDArray[Any] = (stored.view(torch.int16) if form == "bfloat16" else stored).numpy()
    if dtype != "int8":
        return [numbers]
    values, scales = quantise(numbers)
    return [scales, values]
