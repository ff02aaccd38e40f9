"""Evaluation by processes on other GPUs or machines: what is handed out, and how what comes back is put together.

Blocks come back in any order, and each hands on the keys of its best passages, which merge into the best of all. What
has come is kept in the working folder, so that the same command goes on after a kill, with other machines too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from m2kr.common.cluster import Cluster, Job
from m2kr.common.files import atomic, digest
from m2kr.common.progress import progress
from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.evaluate.blocks import Block, block_size
from m2kr.evaluate.encode import CHUNK, IMAGE_CHUNK
from m2kr.evaluate.options import EncodeOptions
from m2kr.formats.shards import readable
from m2kr.search.order import best, unpacked
from m2kr.search.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.common.measure import Phases
    from m2kr.common.work import Workplace
    from m2kr.dataset import TaskData
    from m2kr.evaluate.blocks import Done
    from m2kr.evaluate.encode import Encoder
    from m2kr.evaluate.options import TaskOptions
    from m2kr.evaluate.passages import PassagePictures
    from m2kr.retriever import Input
    from m2kr.search.ragged import Array

_WORKER = "m2kr.evaluate.blocks:BlockWorker"


class RemoteRetriever:
    """A `m2kr.retriever.Retriever` whose model is in the processes of a cluster, and not in this one.

    Its verbs send inputs to one of them. `m2kr.evaluate.task.evaluate_task` gives all of them work.

    Args:
        cluster: entered already; its processes are started here.
        model: as for `m2kr.retriever.get_retriever`.
        loading: its keyword arguments.
        options: how embeddings are made.
        workers: processes that decode pictures, of each process of the cluster.

    Raises:
        M2KRError: the retriever makes no vectors; it cannot be made on a node, which is named; there is no room for it.
    """

    reads: frozenset[str]
    name: str
    vectors: Literal["single", "multi"]
    reads_instructions: bool
    settings: dict[str, Any]

    def __init__(
        self, cluster: Cluster, model: str, loading: dict[str, Any], options: EncodeOptions, *, workers: int = 0
    ) -> None:
        self.cluster = cluster
        encoding = {field.name: getattr(options, field.name) for field in fields(EncodeOptions)}
        threads = cluster.cpus if options.device == "cpu" else 0
        facts = cluster.start(
            _WORKER, model=model, loading=loading, encoding=encoding, threads=threads, workers=workers
        )
        if "vectors" not in facts["retriever"]:
            raise M2KRError(
                f"{facts['retriever']['name']} makes no vectors: it ranks with one index of all passages, which cannot "
                "be cut into parts. Leave out --ray; one process is enough for it."
            )
        self.__dict__.update(facts["retriever"])
        self.environment: dict[str, Any] = facts["environment"]

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Encode queries in one of the processes."""
        return self.cluster.one(Job("queries", "encode_query", (inputs, batch_size)))

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Encode passages in one of the processes."""
        return self.cluster.one(Job("passages", "encode_document", (inputs, batch_size)))

    def query_chunks(self, data: TaskData, first: int, *, pictures: bool) -> Generator[Any]:
        """Yield the embeddings of each chunk of queries from a row on, in order, made by all processes at once."""
        chunk, count = IMAGE_CHUNK if pictures else CHUNK, data.queries.height

        def jobs() -> Iterator[Job]:
            start = first
            while start < count:
                stop = min(start - start % chunk + chunk, count)
                some = replace(_small(data), queries=data.queries[start:stop])
                yield Job(f"{data.task.key} queries {start:,}", "queries", (some,), {"pictures": pictures})
                start = stop

        return self.cluster.in_order(jobs())


def searched_in_blocks(
    encoder: Encoder,
    data: TaskData,
    texts: Sequence[str],
    pictures: PassagePictures | None,
    sizes: Sequence[int] | None,
    work: Workplace,
    options: TaskOptions,
    phases: Phases,
) -> tuple[tuple[Any, Any], int]:
    """Encode and search all passages, block by block.

    Args:
        encoder: of a `RemoteRetriever`.
        data: the task.
        texts: contents of the passages, in their order.
        pictures: theirs, in the same order, where the retriever reads them.
        sizes: bytes of the queries' pictures, where these are read.
        work: of the result, for what is not finished.
        options: of the evaluation.
        phases: what is measured is added to them. The time that blocks took is that on the clock, divided between
            encoding and search as it was in the processes; memory is the largest of any of them.

    Returns:
        Scores and rows, as of `m2kr.search.search`, and how many inputs were encoded at once.

    Raises:
        ImageError, M2KRError: as `Encoder.passages`, `Encoder.queries`, `m2kr.search.search` and `Cluster.done`.
    """
    import torch

    retriever = encoder.retriever
    assert isinstance(retriever, RemoteRetriever)
    queries = encoder.queries(data, sizes, work.folder)
    phases.add("encode_queries", queries.seconds, queries.memory)
    if queries.reused:
        phases.reused.append("encode_queries")
    k, size = min(options.top_k, len(texts) or 1), block_size(len(texts), pictures=pictures is not None)
    chunk = CHUNK if pictures is None else IMAGE_CHUNK
    place = encoder.shards(texts, work.folder, pictures)
    shards = place if place.kept or options.keep_embeddings else None
    made = None if place.kept else shards
    if made is not None:
        made.begin()

    def whole(first: int) -> bool:
        return made is None or all(map(made.has, range(first, min(first + size, len(texts)), chunk)))

    kept = _Kept(work.folder, digest(work.key, size, *([] if made is None else ["with vectors"])), whole)
    keys = kept.keys(len(queries.store))
    todo = [first for first in range(0, len(texts), size) if first not in kept.done]
    shared = retriever.cluster.shared(_plain(queries.store.load()))

    def jobs() -> Iterator[Job]:
        for first in todo:
            own = None if pictures is None else replace(pictures, rows=pictures.rows[first : first + size])
            some = texts[first : first + size]
            block = Block(data.task.key, first, some, own, k, options.search_bytes, shards)
            yield Job(
                f"{data.task.key} passages {first:,} to {first + len(block.texts) - 1:,}", "best", (block, shared)
            )

    label = f"{data.task.key} encode and search"
    bar = progress(len(texts), label, unit="passages", quiet=options.quiet)
    bar.set_postfix(nodes=retriever.cluster.nodes, refresh=False)
    clock = time.perf_counter()
    with bar, closing(retriever.cluster.done(jobs())) as blocks:
        bar.initial = bar.n = len(texts) - sum(min(size, len(texts) - first) for first in todo)
        for job, done in blocks:
            block = job.given[0]
            keys = best(keys, torch.from_numpy(done.keys.copy()), k)
            now = time.perf_counter()
            kept.add(block.first, keys, done, now - clock)
            clock = now
            bar.set_postfix(nodes=retriever.cluster.nodes, refresh=False)
            bar.update(len(block.texts))
    kept.tell(phases)
    if made is not None:
        made.end(len(texts), kept.dim, phases.seconds["encode_passages"], phases.memory["encode_passages"])
    elif shards is not None:
        phases.add("encode_passages", shards.note.seconds, shards.note.memory)
        phases.reused.append("encode_passages")
    scores, rows = unpacked(keys)
    return (scores.numpy(), rows.numpy()), min(encoder.batch.size, kept.batch_size or encoder.batch.size)


class _Kept:
    """The best keys of the blocks that are done, in a file that each block replaces, and a note of which they are."""

    def __init__(self, work: Path, key: str, whole: Callable[[int], bool]) -> None:
        self._work = work

        def there(facts: dict[str, Any]) -> bool:
            return (work / facts["file"]).is_file() and all(map(whole, facts["done"]))

        self._note = Note(work / "blocks.json", key, whole=there)

    @property
    def done(self) -> set[int]:
        """First rows of the blocks."""
        return set(self._note.facts.get("done", ()))

    @property
    def batch_size(self) -> int | None:
        """The smallest of their batches."""
        return self._note.facts.get("batch_size")

    @property
    def dim(self) -> int | None:
        """Numbers in a vector of theirs, where vectors were kept."""
        return self._note.facts.get("dim")

    def keys(self, queries: int) -> Tensor:
        """Return the best keys so far, shape (queries, any)."""
        import torch

        if not self.done:
            return torch.empty((queries, 0), dtype=torch.int64)
        with readable(self._path, "Delete its folder; the blocks are then done again."):
            return torch.from_numpy(np.load(self._path, allow_pickle=False))

    @property
    def _path(self) -> Path:
        return self._work / str(self._note.facts["file"])

    def add(self, first: int, keys: Tensor, block: Done, seconds: float) -> None:
        """Keep the best keys after one more block, which took the time since the one before."""
        facts, before = self._note.facts, self._path if self.done else None
        path = self._work / f"best-{first:012d}.npy"
        with atomic(path) as file:
            np.save(file, keys.numpy(), allow_pickle=False)
        own, sizes = facts.get("own", {}), {block.batch_size, facts.get("batch_size", block.batch_size)}
        self._note.save(
            done=sorted(self.done | {first}),
            file=path.name,
            batch_size=min(sizes),
            dim=block.dim or facts.get("dim"),
            wall=facts.get("wall", 0.0) + seconds,
            own={phase: own.get(phase, 0.0) + value for phase, value in block.seconds.items()},
            memory={phase: max(facts.get("memory", {}).get(phase, 0), value) for phase, value in block.memory.items()},
        )
        if before is not None:
            before.unlink(missing_ok=True)

    def tell(self, phases: Phases) -> None:
        """Add time and memory of all blocks to phases."""
        facts = self._note.facts
        whole = sum(facts.get("own", {}).values()) or 1.0
        for phase, value in facts.get("own", {"encode_passages": 0.0, "search": 0.0}).items():
            phases.add(phase, facts.get("wall", 0.0) * value / whole, facts.get("memory", {}).get(phase, 0))


def _small(data: TaskData) -> TaskData:
    """Return a task without what encoding queries does not need."""
    return replace(data, passages=data.passages.clear(), qrels={}, files=())


def _plain(vectors: Ragged | Array) -> Ragged | Array:
    """Return vectors as arrays that are no files in memory, and that machines share without copies where they can."""
    if isinstance(vectors, Ragged):
        return Ragged(_plain(vectors.vectors), vectors.offsets)  # type: ignore[arg-type]
    return np.array(vectors) if isinstance(vectors, np.memmap) else vectors
