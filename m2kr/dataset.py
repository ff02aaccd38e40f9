"""Reading a built benchmark, or the published one: queries, passages, relevance judgements, images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from m2kr.common.hub import told_bytes
from m2kr.common.progress import say
from m2kr.errors import M2KRError
from m2kr.formats.hub import hub_source, local_folder
from m2kr.formats.integrity import ReadFile, identify
from m2kr.formats.manifest import read_manifest
from m2kr.formats.rules import DatasetError, check_usable
from m2kr.formats.shards import find_shards, readable, split_shards
from m2kr.images.hub import check_asked
from m2kr.images.packed import packed_images
from m2kr.images.roots import HUB, ImageRoots, parse_roots
from m2kr.tasks import PASSAGE_IMAGE, Task, get_task

if TYPE_CHECKING:
    from PIL.Image import Image

_LOOKED_AT = 20
# Queries whose pictures are looked for, to tell where all are.

NANO_QUERIES = 50
NANO_PASSAGES = 2000
"""Sizes of the subset that `nano_subset` draws."""


@dataclass(frozen=True)
class TaskData:
    """One split of one task. Unpacks into ``queries, passages, qrels``.

    Attributes:
        task: the task.
        split: query split.
        queries: rows of ``<TASK>_data``, with all published columns.
        passages: rows of ``<TASK>_passages``, with a column ``img_path`` where they were given pictures.
        qrels: question_id -> ids of its positive passages, possibly none.
        images: where pictures are, those of queries and of passages; None where no root was given and none are packed.
        fingerprint: identifies the tables; equal data give equal fingerprints.
        synthetic: whether the data are made up.
        limited: whether queries were cut to the first few.
        nano: whether queries and passages are the small subset that `nano_subset` draws.
        seed: of that draw; None without one.
        files: what they were read from.
        source: "folder", or the dataset of the hub and its commit.
    """

    task: Task
    split: str
    queries: pl.DataFrame
    passages: pl.DataFrame
    qrels: dict[str, list[str]]
    images: ImageRoots | None
    fingerprint: str
    synthetic: bool = False
    limited: bool = False
    nano: bool = False
    seed: int | None = None
    files: tuple[ReadFile, ...] = ()
    source: str = "folder"

    def check_unchanged(self) -> None:
        """Check that the files are as they were when they were read: to be called before a result is published.

        Raises:
            M2KRError: one is not.
        """
        for file in self.files:
            file.check_unchanged()
        if self.images is not None:
            self.images.check_unchanged()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.queries, self.passages, self.qrels))

    @property
    def answers(self) -> dict[str, list[str]] | None:
        """question_id -> answers, or None where the task has none."""
        if "answers" not in self.queries.columns:
            return None
        return {name: answers or [] for name, answers in self.queries.select("question_id", "answers").iter_rows()}

    @property
    def queries_with_absent_positive(self) -> int:
        """How many queries have a positive that is not among the passages, which no search can find."""
        known = set(self.passages["passage_id"])
        return sum(not known.issuperset(positives) for positives in self.qrels.values())

    @property
    def has_passage_images(self) -> bool:
        """Whether some passage has a picture of its own; see `m2kr.tasks.Task.takes_passage_images`."""
        paths = self.passages.get_column(PASSAGE_IMAGE, default=None)
        return self.task.takes_passage_images and paths is not None and paths.null_count() < len(paths)

    @property
    def image_paths(self) -> list[str]:
        """The ``img_path`` of all queries, each once."""
        return self.queries["img_path"].drop_nulls().unique(maintain_order=True).to_list()

    def query_texts(self, *, instructions: bool, end: str = ":") -> list[str]:
        """Return the text of every query: the question, with the row's instruction in front if asked for.

        ``end`` is how instructions end; see `query_text`.
        """
        columns = self.queries.select("instruction", pl.col("question").cast(pl.String).fill_null(""))
        return [
            query_text(instruction, question, end) if instructions else question
            for instruction, question in columns.iter_rows()
        ]

    def query_image(self, row: int) -> Image:
        """Return the picture of one query, decoded.

        Raises:
            ImageError: it is missing or cannot be decoded.
            M2KRError: no image root was given.
        """
        if self.images is None:
            raise M2KRError(f"the queries of {self.task.key} have images. Name their folder with --images.")
        path = self.queries["img_path"][row]
        if path is None:
            raise M2KRError(f"query {self.queries['question_id'][row]} of {self.task.key} has no image path.")
        self.images.fetch([path], quiet=True)
        return self.images.open(path)


def nano_subset(
    data: TaskData, *, seed: int = 0, queries: int = NANO_QUERIES, passages: int = NANO_PASSAGES
) -> TaskData:
    """Return a small subset to try things on: some queries, all their positives, and other passages.

    Queries are those with the smallest hashes of their ids, and so are the other passages, so the choice depends on
    the seed and the ids alone, and rows keep their order. Scores on it are far higher than on the task: there is less
    to confuse a positive with.

    Args:
        data: a split of a task, as `load_task` returns it.
        seed: of the hash.
        queries: how many queries at most.
        passages: how many passages at most, unless the queries have more positives than that.

    Raises:
        M2KRError: the data are a subset already.
    """
    if data.limited or data.nano:
        raise M2KRError("a nano subset is drawn from all queries: leave --limit out.")
    chosen = data.queries.filter(pl.Series(_smallest(data.queries["question_id"], queries, f"{seed}/queries")))
    qrels = {name: data.qrels[name] for name in chosen["question_id"]}
    positive = data.passages["passage_id"].is_in(list({name for positives in qrels.values() for name in positives}))
    others = data.passages["passage_id"].filter(~positive)
    drawn = others.filter(pl.Series(_smallest(others, passages - int(positive.sum()), f"{seed}/passages")))
    kept = data.passages.filter(positive | data.passages["passage_id"].is_in(drawn.to_list()))
    return replace(data, queries=chosen, passages=kept, qrels=qrels, nano=True, seed=seed)


def _smallest(ids: pl.Series, count: int, key: str) -> npt.NDArray[np.bool_]:
    """Return a mask of the ``count`` ids with the smallest keyed hashes."""
    secret = hashlib.blake2b(key.encode(), digest_size=32).digest()
    hashes = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=secret).digest() for name in ids)
    mask = np.zeros(len(ids), dtype=np.bool_)
    mask[np.argsort(np.frombuffer(hashes, dtype="<u8"), kind="stable")[: max(count, 0)]] = True
    return mask


def query_text(instruction: str | None, question: str, end: str = ":") -> str:
    """Join an instruction and a question as the published models read them: ``instruction: question``.

    The instruction is stripped and ends with ":"; it is left out where it is empty. ``end`` stands for each ":" of the
    instruction, for models to which another sign ends it (`m2kr.retriever.instruction_end`).
    Source: LinWeizheDragon/FLMR, examples/example_use_preflmr.py.
    """
    lead = (instruction or "").strip()
    if lead and not lead.endswith(":"):
        lead += ":"
    return f"{lead.replace(':', end)} {question}".strip()


def load_task(
    task: str | Task,
    data: str | Path,
    split: str = "test",
    *,
    images: str | Path | ImageRoots | None = None,
    limit: int | None = None,
    trust: bool = False,
) -> TaskData:
    """Load one split of a task.

    The files of a folder are compared with its manifest, where it has one.

    Args:
        task: its key, whatever the capitals.
        data: folder of a built or downloaded benchmark, or a dataset id of the hub, of which the tables of this split
            are fetched (see `m2kr.formats.hub`).
        split: query split; its passages come with it.
        images: folder or archive of the pictures, or "hub" (see `m2kr.images.hub`; `TaskData.images` fetches them).
            Without it they are read from ``<TASK>_images``, where that is in the folder (see `m2kr.images.packed`).
        limit: keep the first so many queries only.
        trust: compare the sizes of the files alone, not their hashes.

    Raises:
        M2KRError: the folder has no such task or split, or the hub cannot be reached; a file is not the one that the
            manifest lists; a column is missing (``answers`` may be), or of a type that would give false figures; an id
            is empty or stands twice; a passage, a positive or an answer is null.
    """
    task = get_task(task)
    if split not in task.splits:
        raise M2KRError(f"{task.key} has no split {split!r}; it has {', '.join(task.splits)}.")
    folder = local_folder(data, task.key, split, [task.key])
    tables = ((task.data_config, split), (task.passages_config, f"{split}_passages"))
    shards = [split_shards(folder, config, name) for config, name in tables]
    identity = identify(folder, task, [*shards[0], *shards[1]], trust=trust)
    queries, passages = map(_read, shards)
    for file in identity.files:
        file.check_unchanged()  # it was this that was read
    check_read(task, split, queries, passages, data)
    limited = limit is not None and limit < queries.height
    if limit is not None:
        queries = queries.head(limit)
    qrels = {
        name: list(dict.fromkeys(positives or []))
        for name, positives in queries.select("question_id", "pos_item_ids").iter_rows()
    }
    if isinstance(images, str | Path):
        images = parse_roots([str(images)])
    if images is not None:
        images = images.for_task(task)
    elif task.reads_images:
        images = packed_images(folder, task, trust=trust)
    return TaskData(
        task=task,
        split=split,
        queries=queries,
        passages=passages,
        qrels=qrels,
        images=images,
        fingerprint=identity.fingerprint,
        synthetic=identity.synthetic,
        limited=limited,
        files=identity.files,
        source=hub_source(folder) or "folder",
    )


def check_read(
    task: Task, split: str, queries: pl.DataFrame | pl.LazyFrame, passages: pl.DataFrame | pl.LazyFrame, data: object
) -> None:
    """Check the tables of a split before anything is made of them: `m2kr.formats.rules.check_usable`.

    Raises:
        M2KRError: a table breaks a rule; ``data`` says where it is from.
    """
    try:
        check_usable(task, split, queries, passages, f" in {data}")
    except DatasetError as error:
        raise M2KRError(f"{error} Get or build it again; python -m m2kr.check looks for more in a folder.") from error


def default_images(
    data: Path, task: Task, split: str, *, needed: bool = True, raw: Path = Path("raw")
) -> ImageRoots | None:
    """Return where a task's pictures are, for a command that was not told: packed, below ``raw``, or on the hub.

    Those below ``raw`` go for it where one of the first queries finds its picture there. Pictures of made-up data are
    on no hub: of these, and of a task without pictures, there is nothing to return.

    Args:
        data: folder of the benchmark.
        task: whose pictures.
        split: of the queries.
        needed: whether those of the queries are read. Without that, nothing is looked for, and not on the hub.
        raw: the folder of the raw releases.

    Raises:
        M2KRError: a table or an archive cannot be read.
    """
    if not task.reads_images:
        return None
    if (packed := packed_images(data, task)) is not None:
        return packed
    roots = parse_roots([str(raw)]).for_task(task) if raw.is_dir() else None
    if not needed:
        return roots
    shards = find_shards(data / task.data_config, split)
    with readable(f"{task.data_config}/{split} in {data}"):
        rows = pl.scan_parquet(shards).select("img_path").head(_LOOKED_AT).collect() if shards else pl.DataFrame()
    first = rows["img_path"].drop_nulls().to_list() if shards else []
    made_up = read_manifest(data)["tasks"].get(task.key, {}).get("synthetic")
    if not first or made_up or (roots is not None and any(map(roots.has, first))):
        return roots
    return parse_roots([HUB], asked=False).for_task(task)


def plan_fetching(parts: Iterable[TaskData], *, quiet: bool = False) -> None:
    """Say how much is to be read of the hub for the pictures of all tasks together, before the first is begun.

    Args:
        parts: the tasks; each is asked for when the one before was looked at.
        quiet: say nothing.

    Raises:
        M2KRError: the hub cannot be reached, or has not the pictures; or it is too much for a user who did not ask for
            it (see `m2kr.images.hub.check_asked`).
    """
    plans = [plan for data in parts if data.images and (plan := data.images.plan(data.image_paths, quiet=quiet))]
    check_asked(plans)
    if len(plans) > 1 and (size := sum(plan.to_read for _, plan in plans)):
        say(f"pictures: up to {told_bytes(size)} are to be read of the hub, in all", quiet=quiet)


def _read(shards: list[Path]) -> pl.DataFrame:
    names = ", ".join(shard.name for shard in shards)
    with readable(f"{shards[0].parent} ({names})", "Get these files again."):
        return pl.read_parquet(shards)
