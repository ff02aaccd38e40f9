"""Stored vectors of passages as processes on several machines write and read them, in a folder that all of them share.

A block's shards are those that one process would write, so what was kept serves either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.search.store import EmbeddingStore, has_shard, write_shard

if TYPE_CHECKING:
    from m2kr.common.options import StoredType
    from m2kr.search.ragged import Array, Ragged
    from m2kr.search.store import Kind

NOTE = "encoding.json"
"""Beside the shards: how far the encoding is, with its time and memory."""


@dataclass(frozen=True)
class PassageShards:
    """Where the vectors of all passages of a task lie, or will; see `m2kr.search.store.EmbeddingStore`.

    Attributes:
        folder: that all processes see under this path.
        key: of the store.
        kind: several vectors a passage, or one.
        dtype: the stored form.
        kept: whether an earlier evaluation has kept them all, so that they are read and not made.
    """

    folder: Path
    key: str
    kind: Kind
    dtype: StoredType
    kept: bool

    @property
    def note(self) -> Note:
        """The note beside them."""
        return Note(self.folder / NOTE, self.key)

    def begin(self) -> None:
        """Make the folder, and discard what another key has left there."""
        EmbeddingStore(self.folder, self.key, kind=self.kind, dtype=self.dtype)

    def has(self, first: int) -> bool:
        """Whether the shard is there that begins with a row."""
        return has_shard(self.folder, first)

    def write(self, first: int, embeddings: Ragged | Sequence[Array] | Array) -> int | None:
        """Write the vectors of passages from a row on as one shard; return their dimension, None without vectors.

        Raises:
            M2KRError: the folder is not there; as `EmbeddingStore.append`.
        """
        self._check_seen()
        return write_shard(self.folder, first, embeddings, self.kind, self.dtype)

    def read(self, first: int, stop: int) -> Ragged | Array:
        """Return the vectors of kept passages.

        Raises:
            M2KRError: the folder is not there, or is damaged.
        """
        self._check_seen()
        return _opened(self).part(first, stop)

    def end(self, rows: int, dim: int | None, seconds: float, memory: int) -> None:
        """Note that all are written, with the time and memory of that.

        Raises:
            M2KRError: some of them are not here.
        """
        store = EmbeddingStore(self.folder, self.key, kind=self.kind, dtype=self.dtype)
        store.take_in(dim)
        if len(store) != rows:
            raise M2KRError(
                f"{self.folder} has the vectors of {len(store):,} of {rows:,} passages: other machines have written "
                "theirs elsewhere. Pass an --out in a folder that all of them share."
            )
        self.note.save(rows=rows, of=rows, seconds=seconds, memory=memory)

    def _check_seen(self) -> None:
        if not (self.folder / "meta.json").is_file():
            raise M2KRError(
                f"{self.folder} is not there, where vectors of passages are kept. Pass an --out in a folder that all "
                "machines share under one path."
            )


@cache
def _opened(shards: PassageShards) -> EmbeddingStore:
    return EmbeddingStore(shards.folder, shards.key, kind=shards.kind, dtype=shards.dtype)
