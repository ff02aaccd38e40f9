"""One part of an evaluation, wherever it is done: a block of passages encoded and searched, some queries encoded.

What runs here is what runs in one process. The edges of a block are multiples of the chunk that encoding goes by. So
batches are the same, and with them vectors, to the bit; and the best of all blocks are those of one search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m2kr.common.measure import environment, peak_memory, reset_peak_memory
from m2kr.evaluate.encode import CHUNK, IMAGE_CHUNK, Encoder
from m2kr.evaluate.options import EncodeOptions
from m2kr.retriever import Retriever, SparseRetriever, get_retriever
from m2kr.search.device import check_device
from m2kr.search.exact import search
from m2kr.search.order import best, packed
from m2kr.search.store import as_stored

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.evaluate.passages import PassagePictures
    from m2kr.evaluate.shards import PassageShards
    from m2kr.retriever import Input
    from m2kr.search.ragged import Array, Ragged

_BLOCKS = 512
# Blocks of a large task at most. Each moves 8 bytes for each query and place of its ranking, and takes 0.3 s to merge
# and keep with 5,120 queries and 500 places. So many are several for each of dozens of processes: none waits long.


def block_size(count: int, *, pictures: bool) -> int:
    """Return the passages of a block: whole chunks. It depends on the task alone, so that any actors can go on."""
    chunk = IMAGE_CHUNK if pictures else CHUNK
    return chunk * max(1, -(-count // (chunk * _BLOCKS)))


@dataclass(frozen=True)
class Block:
    """Passages to be encoded and searched.

    Attributes:
        task: key of the task, for messages.
        first: row of the first of them in the order of all.
        texts: their contents.
        pictures: theirs, in the same order, where the retriever reads them.
        k: passages to keep for each query.
        memory: bytes of scratch for the search.
        shards: where the vectors are, or are to be kept, if any.
    """

    task: str
    first: int
    texts: Sequence[str]
    pictures: PassagePictures | None
    k: int
    memory: int
    shards: PassageShards | None = None

    @property
    def chunk(self) -> int:
        """Passages that are encoded, and stored, at once."""
        return CHUNK if self.pictures is None else IMAGE_CHUNK


@dataclass(frozen=True)
class Done:
    """What came of a block.

    Attributes:
        keys: of the best passages of each query, shape (queries, at most k); see `m2kr.search.order`.
        seconds: of "encode_passages" and "search".
        memory: largest resident memory of each, bytes.
        batch_size: inputs encoded at once.
        dim: numbers in a vector, where vectors were kept.
    """

    keys: npt.NDArray[np.int64]
    seconds: dict[str, float]
    memory: dict[str, int]
    batch_size: int
    dim: int | None


class BlockWorker:
    """A retriever on the machine where it computes.

    Args:
        model: as for `m2kr.retriever.get_retriever`.
        loading: its keyword arguments.
        encoding: fields of `EncodeOptions`.
        threads: that torch computes with on a CPU; 0 leaves that to torch.
        workers: processes that decode pictures.

    Raises:
        M2KRError: as `get_retriever`; the device is not there.
    """

    def __init__(
        self, model: str, loading: dict[str, Any], encoding: dict[str, Any], *, threads: int = 0, workers: int = 0
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._options = EncodeOptions(**encoding)
        check_device(self._options.device)
        self._workers = workers
        self._retriever: Retriever | SparseRetriever = get_retriever(model, **loading)

    def facts(self) -> dict[str, Any]:
        """Return what the retriever says of itself, and where it is; without ``vectors`` it makes none."""
        made = self._retriever
        names = (
            "name",
            "reads",
            "vectors",
            "reads_instructions",
            "settings",
            "reads_passage_images",
            "instruction_end",
        )
        told = {name: getattr(made, name) for name in names if hasattr(made, name)}
        return {"retriever": told, "environment": environment(self._options.device)}

    @cached_property
    def _encoder(self) -> Encoder:
        assert isinstance(self._retriever, Retriever)
        return Encoder(self._retriever, Path(), self._options, self._workers)

    def encode_query(self, inputs: Sequence[Input], batch_size: int) -> Any:
        """Encode inputs that the caller has prepared, as the retriever does."""
        return self._encoder.retriever.encode_query(inputs, batch_size=batch_size)

    def encode_document(self, inputs: Sequence[Input], batch_size: int) -> Any:
        """Encode inputs that the caller has prepared, as the retriever does."""
        return self._encoder.retriever.encode_document(inputs, batch_size=batch_size)

    def queries(self, data: TaskData, *, pictures: bool) -> Any:
        """Encode the queries of a chunk of a task, with their pictures if ``pictures``.

        Raises:
            ImageError, M2KRError: as `Encoder.queries`.
        """
        inputs = list(self._encoder.query_inputs(data, range(data.queries.height), pictures=pictures))
        return self._encoder.encode("queries", inputs, f"{data.task.key} encode queries")

    def best(self, block: Block, queries: Ragged | Array) -> Done:
        """Encode the passages of a block, chunk by chunk, and return the best of them for each query.

        Raises:
            ImageError, M2KRError: as `Encoder.passages` and `m2kr.search.search`.
        """
        import torch

        encoder, options, vectors = self._encoder, self._options, self._encoder.retriever.vectors
        shards, dim = block.shards, None
        keys = torch.empty((len(queries), 0), dtype=torch.int64)
        seconds, memory = {"encode_passages": 0.0, "search": 0.0}, {"encode_passages": 0, "search": 0}

        def measure(phase: str, since: float) -> float:
            now = time.perf_counter()
            seconds[phase] += now - since
            memory[phase] = max(memory[phase], peak_memory())
            reset_peak_memory()
            return now

        reset_peak_memory()
        clock = time.perf_counter()
        for start in range(0, len(block.texts), block.chunk):
            rows = range(start, min(start + block.chunk, len(block.texts)))
            first = block.first + start
            if shards is not None and shards.kept:
                stored = shards.read(first, first + len(rows))
            else:
                inputs = list(encoder.passage_inputs(block.texts, rows, block.pictures))
                made = encoder.encode("passages", inputs, f"{block.task} encode passages")
                stored = as_stored(made, vectors, options.stored, first=first)
                if shards is not None:
                    dim = shards.write(first, made) or dim
                del inputs, made
            clock = measure("encode_passages", clock)
            scores, found = search(queries, stored, block.k, device=options.device, memory=block.memory)
            del stored
            more = packed(torch.from_numpy(scores), torch.from_numpy(found) + first)
            keys = best(keys, more, block.k)
            clock = measure("search", clock)
        return Done(keys.numpy(), seconds, memory, encoder.batch.size, dim)
