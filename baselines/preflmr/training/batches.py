"""What a training run reads: queries, positives and negatives of several tasks, in an order fixed beforehand.

The whole order is drawn before the first update (`draw_order`), and whatever else is chosen for a query (positive,
negatives, instruction) depends on the seed and on its place in that order alone. So a run that was stopped goes on with
the very batches it would have had. Pictures are decoded when their batch is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.preflmr.training.negatives import Rows, mine
from baselines.preflmr.training.stages import Instructions, StageConfig
from m2kr.dataset import TaskData, load_task, query_text
from m2kr.errors import M2KRError
from m2kr.images.roots import ImageRoots

if TYPE_CHECKING:
    import pyarrow as pa


class TrainingTask:
    """The train split of a task, by row number, without its pictures.

    Texts stay in Arrow's memory, which processes that make batches share with this one.

    Args:
        data: the split.
        mined: rows of passages for each query, hard negatives as `mine` of the module ``negatives`` returns them,
            -1 where there are fewer; None for none.

    Attributes:
        data: the split.
        key: of the task.
        fingerprint: of its tables.
        queries: how many have a positive passage; the others are left out.
        passages: how many there are.

    Raises:
        M2KRError: no query has a positive passage, or one names a passage that is not there.
    """

    def __init__(self, data: TaskData, mined: Rows | None = None) -> None:
        self.key, self.fingerprint = data.task.key, data.fingerprint
        self.data = data
        self._instructions = data.task.instructions
        ids = {name: row for row, name in enumerate(data.passages["passage_id"])}
        kept, found, ends = [], [], [0]
        for row, (name, positives) in enumerate(data.qrels.items()):
            try:
                rows = [ids[positive] for positive in positives]
            except KeyError as error:
                raise M2KRError(
                    f"query {name} of {self.key} names the passage {error.args[0]!r}, which is not in "
                    f"{data.task.passages_config}: check the data with python -m m2kr.check."
                ) from error
            if rows:
                kept.append(row)
                found += rows
                ends.append(len(found))
        if not kept:
            raise M2KRError(f"no query of {self.key} has a positive passage, so there is nothing to train on.")
        self._row = np.array(kept, dtype=np.int64)
        self._positives, self._ends = np.array(found, dtype=np.int64), np.array(ends, dtype=np.int64)
        self._mined = mined
        self.queries, self.passages = len(kept), data.passages.height
        self._questions = _texts(data.queries["question"])
        self._own = _texts(data.queries["instruction"])
        self._contents = _texts(data.passages["passage_content"])

    @property
    def images(self) -> bool:
        """Whether queries have pictures."""
        return self.data.task.reads_images

    def positives(self, query: int) -> Rows:
        """Return the rows of the positive passages of a query."""
        return self._positives[self._ends[query] : self._ends[query + 1]]

    def passage(self, row: int) -> str:
        """Return the text of a passage."""
        return self._contents[row].as_py() or ""

    def text(self, query: int, instructions: Instructions, rng: np.random.Generator, end: str = ":") -> str:
        """Return the text of a query, with an instruction in front as the setting says; it ends with ``end``."""
        row = int(self._row[query])
        instruction = self._own[row].as_py()
        if instructions == "sampled" and self._instructions:
            instruction = self._instructions[rng.integers(len(self._instructions))]
        return query_text(None if instructions == "none" else instruction, self._questions[row].as_py() or "", end)

    def picture(self, query: int) -> Any:
        """Return the picture of a query, decoded."""
        return self.data.query_image(int(self._row[query]))

    def negatives(self, query: int, number: int, mined: int, depth: int, rng: np.random.Generator) -> list[int]:
        """Return rows of passages that are not positive: mined ones first, as far as there are, then drawn ones."""
        positives = set(self.positives(query).tolist())
        hard: list[int] = []
        if mined and self._mined is not None:
            candidates = self._mined[self._row[query]][:depth]
            candidates = candidates[candidates >= 0]
            hard = rng.choice(candidates, min(mined, len(candidates)), replace=False).tolist()
        chosen = list(dict.fromkeys(hard))
        if self.passages - len(positives) < number:
            raise M2KRError(
                f"{self.key} has {self.passages} passages, and {len(positives)} of them are positive for one query, so "
                f"that it cannot have {number} negatives: lower negatives."
            )
        while len(chosen) < number:
            row = int(rng.integers(self.passages))
            if row not in positives and row not in chosen:
                chosen.append(row)
        return chosen


def _texts(column: Any) -> pa.Array:
    import polars as pl

    array = column.cast(pl.String).to_arrow()
    return array.combine_chunks() if hasattr(array, "combine_chunks") else array


def load_training(
    config: StageConfig, data: str | Path, images: ImageRoots | None, negatives: Path, *, quiet: bool = False
) -> list[TrainingTask]:
    """Load the train splits of a run's tasks; hard negatives, if any, are kept in the folder ``negatives``.

    Raises:
        M2KRError: one is missing or unusable, or has pictures and no place for them is known.
    """
    splits = [load_split(key, data, "train", images) for key in config.tasks]
    for split in splits:
        if split.images is not None:
            split.images.fetch(split.image_paths, quiet=quiet)
    return [
        TrainingTask(split, mine(split, config.mined_depth, negatives, quiet=quiet) if config.mined else None)
        for split in splits
    ]


def load_split(key: str, data: str | Path, split: str, images: ImageRoots | None) -> TaskData:
    """Load a split with its pictures.

    Raises:
        M2KRError: it is missing, or has pictures and no place for them is known.
    """
    found = load_task(key, data, split, images=images)
    if found.task.reads_images and found.images is None:
        raise M2KRError(f"the queries of {key} have images. Name their folder with --images.")
    return found


# --- the order ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchOrder:
    """Which queries are trained on, in order: batch after batch, each of one task.

    Attributes:
        task: index of each batch's task, ``(batches,)`` int64.
        query: of each batch's queries, ``(batches, batch_size)`` int64.
    """

    task: Rows
    query: Rows


def draw_order(
    tasks: Sequence[TrainingTask], shares: Sequence[float], batches: int, batch_size: int, seed: int
) -> BatchOrder:
    """Draw the order of a run, from tasks with shares.

    The task of each batch is drawn by its share. The queries of a task come in shuffled rounds, each once a round. No
    two queries of a batch share a positive passage, since one's positive is another's negative; a query that would is
    kept for the next batch of its task.

    Raises:
        M2KRError: a task has fewer queries with different positives than a batch takes.
    """
    rng = np.random.default_rng([seed, 0])
    weights = np.asarray(shares, dtype=np.float64)
    chosen = rng.choice(len(tasks), size=batches, p=weights / weights.sum())
    streams = [_stream(task, batch_size, np.random.default_rng([seed, 1, number])) for number, task in enumerate(tasks)]
    queries = np.empty((batches, batch_size), dtype=np.int64)
    for number, task in enumerate(chosen):
        queries[number] = next(streams[task])
    return BatchOrder(chosen.astype(np.int64), queries)


def _stream(task: TrainingTask, batch_size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches of a task's queries without end."""

    def rounds() -> Iterator[int]:
        while True:
            yield from rng.permutation(task.queries).tolist()

    fresh = rounds()
    waiting: list[int] = []
    while True:
        batch: list[int] = []
        taken: set[int] = set()
        left: list[int] = []
        tried = 0
        while len(batch) < batch_size:
            if tried > len(waiting) + 2 * task.queries:
                raise M2KRError(
                    f"{task.key} has too few queries with different positive passages for batches of {batch_size} "
                    f"(its train split has {task.queries} queries): lower batch_size."
                )
            query = waiting[tried] if tried < len(waiting) else next(fresh)
            tried += 1
            positives = task.positives(query).tolist()
            if query in batch or taken.intersection(positives):
                left.append(query)
                continue
            batch.append(query)
            taken.update(positives)
        waiting = left + waiting[tried:]
        yield batch


# --- batches --------------------------------------------------------------------------------------------------------


class Collator:
    """Makes the tensors of a batch from entries of the order; what the data loader calls, in other processes if asked.

    Args:
        tasks: of the order.
        preprocess: of the model's input module: texts, or texts with pictures, and the task, to tensors.
        config: of the run.
        prepare: what makes of a picture the array the model sees.
        end: how an instruction ends; see `m2kr.dataset.query_text`.
    """

    valid_label_columns: tuple[str, ...] = ()  # the trainer asks; there are no labels

    def __init__(
        self,
        tasks: Sequence[TrainingTask],
        preprocess: Callable[..., Mapping[str, Any]],
        config: StageConfig,
        prepare: Callable[[Any], Any],
        end: str = ":",
    ) -> None:
        self._tasks, self._preprocess, self._config, self._prepare = tasks, preprocess, config, prepare
        self._end = end

    def __call__(self, entries: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return one batch: tensors named ``query_...``, ``positive_...`` and ``negative_1_...`` and so on.

        Args:
            entries: with ``task`` and ``query`` of the order and ``place``, their place in it.
        """
        config = self._config
        queries: list[Any] = []
        columns: list[list[str]] = [[] for _ in range(1 + config.negatives)]
        for entry in entries:
            task, query = self._tasks[entry["task"]], entry["query"]
            rng = np.random.default_rng([config.seed, 2, entry["place"]])
            positive = int(rng.choice(task.positives(query)))
            passages = [positive, *task.negatives(query, config.negatives, config.mined, config.mined_depth, rng)]
            for column, row in zip(columns, passages, strict=True):
                column.append(task.passage(row))
            text = task.text(query, config.instructions, rng, self._end)
            queries.append({"text": text, "image": self._prepare(task.picture(query))} if task.images else text)
        names = ("positive", *(f"negative_{number}" for number in range(1, len(columns))))
        batch = _named("query", self._preprocess(queries, task="query"))
        for name, column in zip(names, columns, strict=True):
            batch |= _named(name, self._preprocess(column, task="document"))
        return batch


def _named(name: str, features: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in features.items()}
