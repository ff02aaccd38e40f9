"""Turning texts and pictures into stored embeddings, in chunks, so that a kill costs one chunk at most.

Embeddings are made in a working folder of the evaluation, so that the same command after a kill goes on where it was.
Those to be kept are then moved to ``<results of the model>/.embeddings/<what>-<key>``, where every later evaluation of
the same model with the same texts finds them. The key is a hash of all that they depend on: the inputs themselves,
name, settings, dtype and kind of device of the model, and the type in which they are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from m2kr import __version__
from m2kr.common.batch_size import BatchSize
from m2kr.common.files import digest, not_written
from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.evaluate.options import BATCH_SIZE, EncodeOptions
from m2kr.evaluate.shards import NOTE, PassageShards
from m2kr.images.query_pictures import query_pictures
from m2kr.retriever import instruction_end
from m2kr.search.store import EmbeddingStore

if TYPE_CHECKING:
    from m2kr.common.options import StoredType
    from m2kr.dataset import TaskData
    from m2kr.evaluate.passages import PassagePictures
    from m2kr.retriever import Input, Retriever

What: TypeAlias = Literal["passages", "queries"]


class QueryChunks(Protocol):
    """What encodes queries elsewhere."""

    def __call__(self, data: TaskData, first: int, *, pictures: bool) -> Generator[Any]:
        """Yield the embeddings of each chunk from the row ``first`` on, in order."""


CHUNK = 2048
"""Texts encoded between two writes: what a kill costs at most.

Retrievers sort by length within a chunk. With lengths that are spread widely (log-normal, sigma 0.5) and batches of
32, padding is 5.0 % of what is computed at 1,024 texts, 2.4 % at 2,048 and 1.2 % at 4,096. And 2,048 passages of 512
vectors of 128 float32 numbers are 0.5 GiB, twice that while they are written, so more would gain little for much.
"""

IMAGE_CHUNK = 256
"""The same for queries, or passages, with pictures. They are decoded a chunk at a time: about 150 MB of them."""


@dataclass(frozen=True)
class Encoded:
    """Finished embeddings.

    Attributes:
        store: where they are.
        seconds: wall time of the encoding, over all interruptions.
        memory: peak memory of it, bytes.
        reused: whether an earlier evaluation made and kept them.
    """

    store: EmbeddingStore
    seconds: float
    memory: int
    reused: bool


@dataclass(frozen=True)
class Encoder:
    """A retriever, and what decides how its embeddings are made and stored.

    Attributes:
        retriever: the model.
        kept: folder in which embeddings are looked for, and to which `keep` moves them.
        options: how embeddings are made and stored.
        workers: processes that decode pictures; 0 or 1: none, this one does it.
        query_chunks: yields the embeddings of the queries of a task, chunk by chunk from a row on, where they are made
            elsewhere.
    """

    retriever: Retriever
    kept: Path
    options: EncodeOptions = field(default_factory=EncodeOptions)
    workers: int = 0
    query_chunks: QueryChunks | None = None

    @cached_property
    def batch(self) -> BatchSize:
        """The size of its batches."""
        return BatchSize(self.options.batch_size, BATCH_SIZE, quiet=self.options.quiet)

    def passages(self, texts: Sequence[str], work: Path, name: str, pictures: PassagePictures | None = None) -> Encoded:
        """Encode passages, unless they are stored already.

        Args:
            texts: contents of the passages, n of them.
            work: folder for what is not finished. It holds the work of one evaluation at a time.
            name: of the data, for progress and messages.
            pictures: of the passages, in the same order, where the retriever reads them.

        Returns:
            Their embeddings, in the order of ``texts``.

        Raises:
            ImageError: a picture cannot be decoded. What was encoded before is kept.
            M2KRError: the retriever does not keep to its protocol, a number is not finite, or the disk is full.
        """

        def inputs(row: int) -> Generator[Input]:
            return self.passage_inputs(texts, range(row, len(texts)), pictures)

        chunk = CHUNK if pictures is None else IMAGE_CHUNK
        return self._encoded("passages", _passages_key(texts, pictures), len(texts), chunk, inputs, work, name)

    def passage_inputs(
        self, texts: Sequence[str], rows: Sequence[int], pictures: PassagePictures | None = None
    ) -> Generator[Input]:
        """Yield what the retriever is given of some passages, their pictures decoded if these are read.

        Raises:
            ImageError, M2KRError: as `passages`.
        """
        if pictures is None:
            yield from (texts[row] for row in rows)
            return
        prepare = getattr(self.retriever, "prepare_image", None)
        yield from pictures.inputs(texts, rows, prepare, workers=self.workers)

    def queries(self, data: TaskData, sizes: Sequence[int] | None, work: Path) -> Encoded:
        """Encode the queries of a task, with their pictures if ``sizes`` has the bytes of each, as `passages` does.

        Raises:
            ImageError: a picture cannot be decoded. What was encoded before is kept.
            M2KRError: as `passages`; the retriever's ``prepare_image`` cannot be sent to workers.
        """
        texts = self._query_texts(data)
        key, chunk = texts_key(texts), CHUNK
        if sizes is not None:
            key, chunk = texts_key(texts, data.queries["img_path"], (str(size) for size in sizes)), IMAGE_CHUNK

        def inputs(row: int) -> Generator[Input]:
            return self.query_inputs(data, range(row, len(texts)), pictures=sizes is not None)

        made = None
        if (chunks := self.query_chunks) is not None:

            def made(row: int) -> Generator[Any]:
                return chunks(data, row, pictures=sizes is not None)

        return self._encoded("queries", key, len(texts), chunk, inputs, work, data.task.key, made)

    def query_inputs(self, data: TaskData, rows: Sequence[int], *, pictures: bool) -> Generator[Input]:
        """Yield what the retriever is given of some queries of a task, their pictures decoded if these are read.

        Raises:
            ImageError, M2KRError: as `queries`.
        """
        some = replace(data, queries=data.queries[rows])
        texts = self._query_texts(some)
        if not pictures:
            yield from texts
            return
        prepare = getattr(self.retriever, "prepare_image", None)
        decoded = query_pictures(data.images, data.task.key, some.queries, prepare, workers=self.workers)
        with closing(decoded):
            for text, picture in zip(texts, decoded, strict=True):
                yield {"text": text, "image": picture}

    def _query_texts(self, data: TaskData) -> list[str]:
        return data.query_texts(instructions=self.retriever.reads_instructions, end=instruction_end(self.retriever))

    def encode(self, what: What, inputs: Sequence[Input], label: str) -> Any:
        """Return what the retriever makes of inputs, in batches of the size of `batch`.

        Raises:
            M2KRError: it returned another number of items, or not what its ``vectors`` says.
        """
        retriever = self.retriever
        encode = retriever.encode_document if what == "passages" else retriever.encode_query
        embeddings = self.batch.call(encode, inputs, label)
        if not hasattr(embeddings, "__len__"):
            raise M2KRError(
                f"{label}: {retriever.name} returned a {type(embeddings).__name__}. Return an array, or a list of them."
            )
        if len(embeddings) != len(inputs):
            raise M2KRError(f"{label}: the retriever returned {len(embeddings)} items for {len(inputs)} inputs.")
        single, shape = retriever.vectors == "single", _shape(embeddings)
        fits = len(shape) == 2 if single else not shape and all(len(_shape(own)) == 2 for own in embeddings)
        if not fits:
            wanted = "an array of shape (n, dim)" if single else "a list of arrays of shape (tokens, dim)"
            found = f"an array of shape {shape}" if shape else f"a {type(embeddings).__name__} of other things"
            raise M2KRError(
                f"{label}: {retriever.name} returned {found}. Its vectors is {retriever.vectors!r}, so it has to "
                f"return {wanted}."
            )
        return embeddings

    def has_passages(self, texts: Iterable[str], pictures: PassagePictures | None = None) -> bool:
        """Whether the embeddings of these passages, with these pictures, were kept."""
        return self._kept("passages", self._key("passages", _passages_key(texts, pictures))).is_dir()

    def shards(self, texts: Iterable[str], work: Path, pictures: PassagePictures | None = None) -> PassageShards:
        """Return where the vectors of these passages are, if they were kept, or else will be in a working folder."""
        key = self._key("passages", _passages_key(texts, pictures))
        folder = self._kept("passages", key)
        kept = folder.is_dir()
        place = (folder if kept else work / "passages").absolute()
        return PassageShards(place, key, self.retriever.vectors, self._stored("passages"), kept)

    def keep(self, work: Path) -> None:
        """Move the finished embeddings of a working folder to where later evaluations find them.

        Raises:
            M2KRError: they cannot be moved there, and no other evaluation has kept the same ones meanwhile.
        """
        for what in ("passages", "queries"):
            note = Note(work / what / NOTE)
            if not note.facts or note.rows != note.facts["of"]:
                continue
            target = self._kept(what, note.key)
            try:
                self.kept.mkdir(parents=True, exist_ok=True)
                (work / what).rename(target)
            except OSError as error:
                if not target.is_dir():
                    raise not_written(target, error) from error

    def _kept(self, what: str, key: str | None) -> Path:
        return self.kept / f"{what}-{key}"

    def _stored(self, what: What) -> StoredType:
        return self.options.stored if what == "passages" else self.options.dtype

    def _key(self, what: What, content: str) -> str:
        model, dtype = self.retriever, self.options.dtype
        settings = {"m2kr": __version__, "model": model.name, "settings": model.settings, "dtype": dtype}
        device = self.options.device.partition(":")[0]
        return digest(what, content, settings, device, model.vectors, self._stored(what))

    def _encoded(
        self,
        what: What,
        content: str,
        count: int,
        chunk: int,
        inputs: Callable[[int], Generator[Input]],
        work: Path,
        name: str,
        made: Callable[[int], Generator[Any]] | None = None,
    ) -> Encoded:
        """Encode what is not stored yet; ``inputs`` gives the inputs from a row on, or ``made`` what came of them."""
        key = self._key(what, content)
        folder = self._kept(what, key)
        reused = folder.is_dir()
        if not reused:
            folder = work / what
        store = EmbeddingStore(folder, key, kind=self.retriever.vectors, dtype=self._stored(what))
        note = Note(folder / NOTE, key)
        label = f"{name} encode {what}"
        waiting: Generator[Any] = (made or inputs)(store.rows)
        with closing(waiting):

            def make(rows: range) -> None:
                store.append(next(waiting) if made else self.encode(what, list(islice(waiting, len(rows))), label))

            note.in_chunks(make, count, chunk, label, first=store.rows, unit=what, quiet=self.options.quiet)
        return Encoded(store, note.seconds, note.memory, reused)


def texts_key(*groups: Iterable[str]) -> str:
    """Return a hash of texts and their order."""
    found = hashlib.sha256()
    for group in groups:
        found.update(b"\xff")  # in no UTF-8
        for text in group:
            content = text.encode("utf-8", "surrogatepass")
            found.update(len(content).to_bytes(8, "little"))
            found.update(content)
    return found.hexdigest()


def _passages_key(texts: Iterable[str], pictures: PassagePictures | None) -> str:
    return texts_key(texts) if pictures is None else texts_key(texts, *pictures.told())


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an array or tensor; that of anything else is empty."""
    return tuple(getattr(value, "shape", ()))
