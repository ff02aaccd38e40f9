"""The query explorer: the measures of each query of a run, checked against its result file, and queries to show.

This needs the benchmark that was evaluated. Without it the site has no significance and no explorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from leaderboard.excerpts import TextPart, excerpt
from leaderboard.marks import DataKind
from leaderboard.records import RunRecord, Selection
from leaderboard.validate import TOLERANCE
from m2kr.common.files import atomic, digest
from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.results.record import read_run
from m2kr.results.run import Run

if TYPE_CHECKING:
    import polars as pl

    from m2kr.dataset import TaskData
    from m2kr.images.roots import ImageRoots

SHOWN_TOP = 5
SHOWN_GOLD = 3
"""Passages shown for a query: retrieved ones, and positives."""

_PICTURE_SIDE = 320
_LAST = 1 << 30
# Stands for the rank of what was not found.


@dataclass(frozen=True)
class Passage:
    """A passage as it is shown.

    Attributes:
        passage_id: its id.
        parts: an excerpt, and which parts of it are an answer.
        rank: place in the run from 1; None where the run does not have it.
        score: its score; None where the run does not have it.
        positive: whether it is a positive of the query.
        has_answer: whether it holds an answer, as PRecall@K counts it.
    """

    passage_id: str
    parts: list[TextPart]
    rank: int | None
    score: float | None
    positive: bool
    has_answer: bool


@dataclass(frozen=True)
class Query:
    """A query with what was found for it.

    Attributes:
        question_id: its id.
        question: text of the question, possibly empty.
        instruction: the instruction in front of it, or empty.
        answers: accepted answers, possibly none.
        picture: file of its picture relative to the site; None where there is none.
        failed: whether the main measure is 0 for it.
        found_at: rank of the first positive; None where the run has none.
        positives: how many positives it has.
        gold: some of them, those that were found first.
        top: the first passages of the run.
    """

    question_id: str
    question: str
    instruction: str
    answers: list[str]
    picture: str | None
    failed: bool
    found_at: int | None
    positives: int
    gold: list[Passage]
    top: list[Passage]


@dataclass(frozen=True)
class ExploredRun:
    """What was seen in a run.

    Attributes:
        hits: headline measure -> its value for each query, float64, shape (queries,).
        failures: number of queries for which the main measure is 0.
        queries: some queries, failures first.
    """

    hits: dict[str, npt.NDArray[np.float64]]
    failures: int
    queries: list[Query]


@dataclass(frozen=True)
class Exploration:
    """What was seen in all runs.

    Attributes:
        fingerprints: (task, split, made up) -> fingerprint of the named benchmark.
        runs: result file -> what was seen in its run. Not of those whose run is not there, or whose data are others.
        absent: result file -> why it was not looked into.
    """

    fingerprints: dict[DataKind, str] = field(default_factory=dict)
    runs: dict[Path, ExploredRun] = field(default_factory=dict)
    absent: dict[Path, str] = field(default_factory=dict)


def explore(
    records: Sequence[RunRecord],
    data: str,
    out: Path,
    *,
    images: ImageRoots | None = None,
    shown: int = 40,
    quiet: bool = False,
) -> Exploration:
    """Look into the runs of results.

    Args:
        records: results.
        data: the benchmark they were evaluated on.
        out: folder of the site; pictures go to ``out/pictures``.
        images: where the queries' pictures are, unless they are packed in the benchmark.
        shown: how many queries of each run are kept to be shown.
        quiet: no progress.

    Raises:
        M2KRError: the benchmark cannot be read; a run cannot be read, is not the one of its result, or gives other
            measures than the result file has; the benchmark changes meanwhile.
    """
    exploration = Exploration()
    with progress(len(records), "look into runs", unit="runs", quiet=quiet) as bar:
        for selection in dict.fromkeys(record.selection for record in records):
            chosen = [record for record in records if record.selection == selection]
            try:
                loaded = load_selection(selection, data, images=images)
            except M2KRError as error:
                if not Path(data).is_dir():
                    raise
                exploration.absent.update((record.path, str(error)) for record in chosen)
                bar.update(len(chosen))
                continue
            exploration.fingerprints[loaded.task.key, loaded.split, loaded.synthetic] = loaded.fingerprint
            thumbnails = _Thumbnails(loaded, out)
            for record in chosen:
                if why := _why_not(record, loaded):
                    exploration.absent[record.path] = why
                else:
                    exploration.runs[record.path] = _explored(record, loaded, thumbnails, shown)
                bar.update()
            loaded.check_unchanged()
    return exploration


def load_selection(selection: Selection, data: str, *, images: ImageRoots | None = None) -> TaskData:
    """Return the queries and passages that a result is of.

    Raises:
        M2KRError: the benchmark does not have them.
    """
    from m2kr.dataset import load_task, nano_subset

    task, split, limit, seed = selection
    loaded = load_task(task, data, split, images=images, limit=limit)
    return loaded if seed is None else nano_subset(loaded, seed=seed)


def recomputed(record: RunRecord, data: TaskData, cutoffs: Iterable[int]) -> tuple[Run, pl.DataFrame]:
    """Return a result's run and every measure of every query, as a table of `m2kr.metrics.score_queries`.

    Raises:
        M2KRError: the run is not there, cannot be read, or is not the one that the result file names.
    """
    from m2kr.metrics import score_queries

    run = read_run(record.run_path, record.result)
    answers = data.answers
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows()) if answers is not None else None
    return run, score_queries(run, data.qrels, answers=answers, passages=texts, ks=cutoffs)


def mismatches(record: RunRecord, table: pl.DataFrame) -> list[str]:
    """Return the measures of a result that differ from those computed, as sentences.

    Args:
        record: a result.
        table: of `recomputed`; measures of the result that it lacks are not looked at.
    """
    found = []
    for name, value in record.result["metrics"].items():
        if name in table.columns:
            computed = float(table[name].mean() or 0.0)  # type: ignore[arg-type]
            if abs(computed - value) > TOLERANCE:
                found.append(f"{name} is {value:.6f} in the file, and {computed:.6f} computed from the run")
    return found


def _why_not(record: RunRecord, data: TaskData) -> str | None:
    result = record.result
    if result["dataset"] != data.fingerprint:
        return "it was made with other data"
    if (result["queries"], result["passages"]) != (data.queries.height, data.passages.height):
        return "it has other numbers of queries or passages than the benchmark"
    if not record.run_path.is_file():
        return "its run is not beside it"
    return None


def _explored(record: RunRecord, data: TaskData, thumbnails: _Thumbnails, shown: int) -> ExploredRun:
    headline = record.result["headline"]
    run, table = recomputed(record, data, {int(name.split("@")[1]) for name in headline})
    if differ := mismatches(record, table):
        raise M2KRError(f"{record.path} is refused: {differ[0]}. Evaluate again, or take the file out.")
    hits = {name: table[name].to_numpy() for name in headline if name in table.columns}
    failed = hits[headline[0]] == 0
    rows = chosen_rows(data.queries["question_id"].to_list(), failed, shown)
    if data.images is not None:
        data.images.fetch(data.queries["img_path"][rows])
    queries = _queries(run, data, rows, failed, thumbnails)
    queries.sort(key=lambda query: (not query.failed, -(query.found_at or _LAST)))
    return ExploredRun(hits, int(failed.sum()), queries)


def chosen_rows(ids: Sequence[str], failed: npt.NDArray[np.bool_], shown: int) -> list[int]:
    """Return rows to show: of the queries ordered by a hash, so that models share them, three failures to a success."""
    order = sorted(range(len(ids)), key=lambda row: digest(ids[row]))
    failures = [row for row in order if failed[row]]
    others = [row for row in order if not failed[row]]
    kept = min(len(others), max(shown - len(failures), shown // 4))
    return failures[: shown - kept] + others[:kept]


def _queries(
    run: Run, data: TaskData, rows: Sequence[int], failed: npt.NDArray[np.bool_], thumbnails: _Thumbnails
) -> list[Query]:
    import polars as pl

    ids = data.queries["question_id"]
    places = {query: number for number, query in enumerate(run.query_ids)}
    # For each query its passages, best first: id -> (rank, score).
    found: dict[str, dict[str, tuple[int, float]]] = {ids[row]: {} for row in rows}
    for query in found.keys() & places.keys():
        ranked = zip(run.passage_ids[places[query]], run.scores[places[query]].tolist(), strict=True)
        found[query] = {passage: (rank, score) for rank, (passage, score) in enumerate(ranked, start=1)}
    needed = {passage for query in found for passage in (*list(found[query])[:SHOWN_TOP], *data.qrels[query])}
    content = data.passages.filter(pl.col("passage_id").is_in(list(needed)))
    texts: dict[str, str] = dict(content.select("passage_id", "passage_content").iter_rows())
    queries = []
    for row in rows:
        query = ids[row]
        passages, positives, answers = found[query], data.qrels[query], (data.answers or {}).get(query, [])
        gold = sorted(positives, key=lambda passage: passages.get(passage, (_LAST, 0))[0])[:SHOWN_GOLD]
        shown = {}
        for passage in (*gold, *list(passages)[:SHOWN_TOP]):
            parts, has_answer = excerpt(texts.get(passage, "(not among the passages)"), answers)
            rank, score = passages.get(passage, (None, None))
            shown[passage] = Passage(passage, parts, rank, score, passage in positives, has_answer)
        queries.append(
            Query(
                question_id=query,
                question=data.queries["question"][row] or "",
                instruction=(data.queries["instruction"][row] or "").rstrip(": "),
                answers=list(dict.fromkeys(answers)),  # several people may have given the same
                picture=thumbnails.of(row),
                failed=bool(failed[row]),
                found_at=min((passages[passage][0] for passage in positives if passage in passages), default=None),
                positives=len(positives),
                gold=[shown[passage] for passage in gold],
                top=[shown[passage] for passage in list(passages)[:SHOWN_TOP]],
            )
        )
    return queries


class _Thumbnails:
    """Small copies of the pictures of a task's queries, written when they are first asked for."""

    def __init__(self, data: TaskData, out: Path) -> None:
        self.data = data
        self.out = out
        self.files: dict[str, str | None] = {}

    def of(self, row: int) -> str | None:
        """Return the file of a query's picture, relative to the site; None where there is no picture to be had."""
        data = self.data
        if not data.task.reads_images or data.images is None or data.queries["img_path"][row] is None:
            return None
        path = str(data.queries["img_path"][row])
        if path not in self.files:
            self.files[path] = self._write(row, f"pictures/{data.task.key}/{digest(path)}.jpg")
        return self.files[path]

    def _write(self, row: int, name: str) -> str | None:
        from m2kr.images.decode import ImageError

        try:
            picture = self.data.query_image(row).convert("RGB")
        except ImageError:
            return None  # the page says that it is missing
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        with atomic(self.out / name, durable=False) as file:
            # Decoded and written anew: nothing of the file that came with the data reaches the site.
            picture.save(file, format="JPEG", quality=80, optimize=True)
        return name
