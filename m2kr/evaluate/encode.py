"""Turning texts and pictures into stored embeddings: in chunks, resumable, with pictures decoded by other processes.

Embeddings are made in a working folder of the evaluation, so that the same command after a kill goes on where it was.
Those to be kept are then moved to ``<results of the model>/.embeddings/<what>-<key>``, where every later evaluation of
the same model with the same texts finds them. The key is a hash of all that they depend on: the inputs themselves,
name, settings, dtype and kind of device of the model, and the type in which they are stored.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from m2kr import __version__
from m2kr.common.files import digest, write_json
from m2kr.common.measure import Phases, peak_memory, reset_peak_memory
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.images.roots import ImageError, ImageRoots
from m2kr.search.store import EmbeddingStore, StoredType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl
    from PIL.Image import Image

    from m2kr.dataset import TaskData
    from m2kr.retriever import Input, Retriever

What: TypeAlias = Literal["passages", "queries"]
ModelType: TypeAlias = Literal["float32", "float16", "bfloat16"]
Picture: TypeAlias = "Image | npt.NDArray[np.uint8]"
Prepare: TypeAlias = "Callable[[Image], npt.NDArray[np.uint8]]"

CHUNK = 2048
"""Texts encoded between two writes: what a kill costs at most.

Retrievers sort by length within a chunk. With lengths that are spread widely (log-normal, sigma 0.5) and batches of
32, padding is 5.0 % of what is computed at 1,024 texts, 2.4 % at 2,048 and 1.2 % at 4,096. And 2,048 passages of 512
vectors of 128 float32 numbers are 0.5 GiB, twice that while they are written, so more would gain little for much.
"""

IMAGE_CHUNK = 256
"""The same for queries with pictures. They are decoded a chunk at a time: about 150 MB of them."""

_SAMPLED = 200
# Queries, at most, on which the effect of 8 bits is measured.
_JOB = 4
# Pictures that a worker gets at once: fewer cost more messages, more make the others wait for the last.
_WORTH_A_POOL = 64
# Pictures that are decoded in the time in which the workers start.
_PICKLED_BYTES = 16 << 20
# What a worker is sent when it starts, at most. A model is larger.
_FACTS = "encoding.json"


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
        batch_size: inputs encoded at once.
        device: as torch names it.
        dtype: of the model and of the stored queries.
        workers: processes that decode pictures; 0 or 1: none, this one does it.
        quiet: no progress.
        store_dtype: of the stored passages; None: as ``dtype``. Queries are few, so less disk for them gains nothing.
    """

    retriever: Retriever
    kept: Path
    batch_size: int = 32
    device: str = "cpu"
    dtype: ModelType = "float32"
    workers: int = 0
    quiet: bool = False
    store_dtype: StoredType | None = None

    def passages(self, texts: Sequence[str], work: Path, name: str) -> Encoded:
        """Encode passages, unless they are stored already.

        Args:
            texts: contents of the passages, n of them.
            work: folder for what is not finished. It holds the work of one evaluation at a time.
            name: of the data, for progress and messages.

        Returns:
            Their embeddings, in the order of ``texts``.

        Raises:
            M2KRError: the retriever does not keep to its protocol, a number is not finite, or the disk is full.
        """
        encode = self.retriever.encode_document
        return self._encoded(
            "passages", texts_key(texts), len(texts), CHUNK, lambda row: _from(texts, row), encode, work, name
        )

    def queries(self, data: TaskData, sizes: Sequence[int] | None, work: Path) -> Encoded:
        """Encode the queries of a task, with their pictures if ``sizes`` has the bytes of each, as `passages` does.

        Raises:
            ImageError: a picture cannot be decoded. What was encoded before is kept.
            M2KRError: as `passages`; the retriever's ``prepare_image`` cannot be sent to workers.
        """
        texts = data.query_texts(instructions=self.retriever.reads_instructions)
        name, encode = data.task.key, self.retriever.encode_query
        if sizes is None:
            return self._encoded(
                "queries", texts_key(texts), len(texts), CHUNK, lambda row: _from(texts, row), encode, work, name
            )
        key = texts_key(texts, data.queries["img_path"], (str(size) for size in sizes))

        def inputs(row: int) -> Generator[Input]:
            with closing(self._pictures(data, row)) as pictures:
                for text, picture in zip(texts[row:], pictures, strict=True):
                    yield {"text": text, "image": picture}

        return self._encoded("queries", key, len(texts), IMAGE_CHUNK, inputs, encode, work, name)

    def effect_of_8_bits(
        self,
        data: TaskData,
        passages: pl.DataFrame,
        sizes: Sequence[int] | None,
        work: Path,
        phases: Phases,
        *,
        device: str,
        memory: int,
    ) -> dict[str, float]:
        """Measure what storing the passages in 8 bits does to the results of at most 200 queries, and say it.

        The queries are taken from the stored ones. The passages are those that were kept in the model's type, or else
        a sample, encoded again in that type: all of them would need the disk that 8 bits save. A small sample
        understates the effect, since most of the rivals that stand close to a positive are not in it.

        Args:
            data: the task, whose cut-off is used.
            passages: all of them with id and content, in the order of their embeddings.
            sizes: as `queries` takes them.
            work: folder of the evaluation.
            phases: gets the time and memory of this, as "quantisation".
            device: as in `m2kr.search.search`.
            memory: as in `m2kr.search.search`.

        Returns:
            The fields of `m2kr.search.int8.Effect`, and "passages", how many took part.
        """
        from m2kr.dataset import nano_subset
        from m2kr.search.int8 import quantisation_effect
        from m2kr.search.store import Ragged

        # Data that are a subset already are refused, lest scores be compared. Here the limit only bounds the work.
        sample = nano_subset(replace(data, limited=False, nano=False), queries=_SAMPLED)
        whole = replace(self, store_dtype=self.dtype)
        taken = passages
        if not (self.kept / f"passages-{whole._key('passages', texts_key(passages['passage_content']))}").is_dir():
            taken = passages.filter(passages["passage_id"].is_in(sample.passages["passage_id"].to_list()))
        found = whole.passages(taken["passage_content"].to_list(), work / "sample", f"{data.task.key} sample")
        if not found.reused:
            phases.add("quantisation", found.seconds, found.memory)
        with phases.measured("quantisation"):
            row_of = {name: row for row, name in enumerate(taken["passage_id"])}
            positives = [[row_of[name] for name in names if name in row_of] for names in sample.qrels.values()]
            rows = [row for row, name in enumerate(data.queries["question_id"]) if name in sample.qrels]
            vectors = replace(self, quiet=True).queries(data, sizes, work).store.load()
            queries = [vectors[row] for row in rows] if isinstance(vectors, Ragged) else vectors[rows]
            cutoff = int(data.task.metrics[0].rpartition("@")[2]) if data.task.metrics else 5
            effect = quantisation_effect(queries, found.store, positives, k=cutoff, device=device, memory=memory)
        say(f"{data.task.key}: {effect} ({taken.height:,} of {passages.height:,} passages)", quiet=self.quiet)
        return {**asdict(effect), "passages": taken.height}

    def keep(self, work: Path) -> None:
        """Move the finished embeddings of a working folder to where later evaluations find them."""
        for what in ("passages", "queries"):
            facts = _read_facts(work / what)
            if facts is None or facts["rows"] != facts["of"]:
                continue
            target = self.kept / f"{what}-{facts['key']}"
            self.kept.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # another evaluation kept the same ones meanwhile
                (work / what).rename(target)

    def _stored(self, what: What) -> StoredType:
        return self.store_dtype or self.dtype if what == "passages" else self.dtype

    def _key(self, what: What, content: str) -> str:
        retriever = self.retriever
        settings = {"m2kr": __version__, "model": retriever.name, "settings": retriever.settings, "dtype": self.dtype}
        return digest(what, content, settings, self.device.partition(":")[0], retriever.vectors, self._stored(what))

    def _encoded(
        self,
        what: What,
        content: str,
        count: int,
        chunk: int,
        inputs: Callable[[int], Generator[Input]],
        encode: Callable[..., Any],
        work: Path,
        name: str,
    ) -> Encoded:
        """Encode what is not stored yet; ``inputs`` gives the inputs from a row on."""
        key = self._key(what, content)
        kept = self.kept / f"{what}-{key}"
        reused = kept.is_dir()
        folder = kept if reused else work / what
        store = EmbeddingStore(folder, key, kind=self.retriever.vectors, dtype=self._stored(what))
        facts = _read_facts(folder)
        if facts is None or facts["key"] != key:
            facts = {"key": key, "rows": 0, "of": count, "seconds": 0.0, "memory": 0}
        label = f"{name} encode {what}"
        with (
            progress(count, label, unit=what, quiet=self.quiet) as bar,
            closing(inputs(store.rows)) as waiting,
        ):
            bar.initial = bar.n = store.rows  # the rate is that of what is left
            reset_peak_memory()
            start = time.perf_counter()
            while store.rows < count:
                first = store.rows
                # A chunk begins at a multiple of the chunk size, as in a run that nothing interrupted.
                given = list(islice(waiting, min(first - first % chunk + chunk, count) - first))
                embeddings = encode(given, batch_size=self.batch_size)
                if len(embeddings) != len(given):
                    raise M2KRError(f"{label}: the retriever returned {len(embeddings)} items for {len(given)} inputs.")
                store.append(embeddings)
                now = time.perf_counter()
                facts["seconds"] += now - start
                facts["memory"] = max(facts["memory"], peak_memory())
                facts["rows"] = store.rows
                write_json(folder / _FACTS, facts)
                start = now
                bar.update(len(given))
        return Encoded(store, facts["seconds"], facts["memory"], reused)

    def _pictures(self, data: TaskData, row: int) -> Generator[Picture]:
        """Yield the pictures of the queries from a row on."""
        assert data.images is not None  # looked for before anything was encoded
        prepare: Prepare | None = getattr(self.retriever, "prepare_image", None)
        paths = data.queries["img_path"][row:].to_list()
        with closing(decoded(data.images, paths, prepare, workers=self.workers)) as pictures:
            for number, picture in enumerate(pictures, start=row):
                if isinstance(picture, ImageError):
                    query, path = data.queries["question_id"][number], data.queries["img_path"][number]
                    raise ImageError(
                        f"the picture {path} of query {query} of {data.task.key} cannot be used: {picture} "
                        "The queries encoded before it are kept.",
                        picture.fault,
                        picture.reason,
                    ) from picture
                yield picture


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


def discard(work: Path) -> None:
    """Delete a working folder."""
    shutil.rmtree(work, ignore_errors=True)


def _from(texts: Sequence[str], row: int) -> Generator[Input]:
    yield from islice(texts, row, None)


def _read_facts(folder: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and {"key", "rows", "of", "seconds", "memory"} <= set(facts) else None


# --- pictures -------------------------------------------------------------------------------------------------------


def picture_sizes(data: TaskData) -> list[int]:
    """Return the bytes of the picture of each query, -1 where only reading tells.

    Raises:
        M2KRError: some are missing. That is found out here, and not after the passages were encoded for hours.
    """
    if data.images is None:
        raise M2KRError(f"the queries of {data.task.key} have images. Name their folder with --images.")
    sizes = []
    missing = []
    for query, path in data.queries.select("question_id", "img_path").iter_rows():
        if path is None:
            raise M2KRError(f"query {query} of {data.task.key} has no image path. Build this task again.")
        file = data.images.find(path)
        if file is None:
            missing.append(path)
        else:
            sizes.append(file.size)
    if missing:
        raise M2KRError(
            f"{len(missing):,} of {data.queries.height:,} images of {data.task.key} are not in {data.images}, the "
            f"first is {missing[0]}. Name their folder with --images, or pass --ignore-images."
        )
    return sizes


def decoded(
    images: ImageRoots, paths: Sequence[str], prepare: Prepare | None = None, *, workers: int = 0
) -> Generator[Picture | ImageError]:
    """Yield pictures in the order of their paths; of one that cannot be used, its error in its place.

    Args:
        images: where they are.
        paths: as in ``img_path``.
        prepare: makes an array of a picture, for the model; None gives the picture itself, in RGB.
        workers: processes that decode them, a bounded number of pictures ahead. With 0 or 1, or for a few pictures,
            there are none. They are spawned and not forked: a fork of a process whose torch has threads can hang.

    Raises:
        M2KRError: ``prepare`` cannot be sent to another process, or a worker was killed.
    """
    if workers < 2 or len(paths) < _WORTH_A_POOL:
        for path in paths:
            yield _decode(images, prepare, path)
        return
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    _check_small(images, prepare)
    # Arrays are small. Whole pictures ahead of the model could take gigabytes.
    ahead = IMAGE_CHUNK // _JOB if prepare else 4 * workers
    waiting: deque[Future[list[Picture | ImageError]]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (images, prepare))
    try:
        for first in range(0, len(paths), _JOB):
            waiting.append(pool.submit(_decode_job, paths[first : first + _JOB]))
            if len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise M2KRError(
            "a process that decodes pictures ended, most likely for lack of memory, or because the calling script runs "
            "its work on import (it needs `if __name__ == '__main__'`). Pass --workers 0 to do without such processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(images: ImageRoots, prepare: Prepare | None, path: str) -> Picture | ImageError:
    try:
        picture = images.open(path)
    except ImageError as error:
        return error
    return picture if prepare is None else prepare(picture)


_given: tuple[ImageRoots, Prepare | None]
# What a worker decodes with.


def _begin(images: ImageRoots, prepare: Prepare | None) -> None:
    """Begin a worker."""
    import os
    import signal
    import threading
    from multiprocessing import parent_process

    global _given
    _given = (images, prepare)
    # The evaluation is interrupted by its own handler and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with(sentinel: int) -> None:
        from multiprocessing.connection import wait

        wait([sentinel])
        os._exit(1)

    # A killed evaluation ends nobody: its workers would wait for work for ever.
    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()


def _decode_job(paths: Sequence[str]) -> list[Picture | ImageError]:
    return [_decode(*_given, path) for path in paths]


def _check_small(images: ImageRoots, prepare: Prepare | None) -> None:
    class Count:
        size = 0

        def write(self, part: bytes) -> int:
            self.size += len(part)
            if self.size > _PICKLED_BYTES:
                raise OverflowError(f"it takes more than {_PICKLED_BYTES >> 20} MiB, so it holds a model")
            return len(part)

    try:
        pickle.Pickler(Count()).dump((images, prepare))
    except Exception as error:  # objects raise what they like when they cannot be pickled
        raise M2KRError(
            f"the retriever's prepare_image cannot be sent to the processes that decode pictures ({error}). Make it a "
            "function, or a method of a small object, without the model; or pass --workers 0."
        ) from error
