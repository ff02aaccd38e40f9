"""Looking into runs: the measures of each query, checked against the result file, and queries to be shown.

This needs the benchmark that was evaluated. Without it the site has no significance and no explorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leaderboard.excerpts import Part, excerpt
from leaderboard.records import Record
from leaderboard.validate import TOLERANCE
from m2kr.common.files import atomic, digest, sha256_of
from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.results.run import Run

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.images.roots import ImageRoots

SHOWN_TOP = 5
SHOWN_GOLD = 3
"""Passages shown for a query: retrieved ones, and positives."""

_PICTURE_SIDE = 320


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
    parts: list[Part]
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
class Examined:
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
class Examination:
    """What was seen in all runs.

    Attributes:
        fingerprints: (task, split, made up) -> fingerprint of the named benchmark.
        found: result file -> what was seen in its run. Not of those whose run is not there, or whose data are others.
        absent: result file -> why it was not looked into.
    """

    fingerprints: dict[tuple[str, str, bool], str]
    found: dict[Path, Examined]
    absent: dict[Path, str]


def examine(
    records: Sequence[Record],
    data: str,
    out: Path,
    *,
    images: ImageRoots | None = None,
    shown: int = 40,
    quiet: bool = False,
) -> Examination:
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
            measures than the result file has.
    """
    from m2kr.dataset import load_task, nano_subset

    examination = Examination({}, {}, {})
    with progress(len(records), "look into runs", unit="runs", quiet=quiet) as bar:
        for selection in dict.fromkeys(record.selection for record in records):
            task, split, limit, seed = selection
            chosen = [record for record in records if record.selection == selection]
            try:
                loaded = load_task(task, data, split, images=images, limit=limit)
            except M2KRError as error:
                if not Path(data).is_dir():
                    raise
                examination.absent.update((record.path, str(error)) for record in chosen)
                bar.update(len(chosen))
                continue
            examination.fingerprints[task, split, loaded.synthetic] = loaded.fingerprint
            if seed is not None:
                loaded = nano_subset(loaded, seed=seed)
            pictures = Pictures(loaded, out)
            for record in chosen:
                why = _why_not(record, loaded)
                if why is None:
                    examination.found[record.path] = _look(record, loaded, pictures, shown)
                else:
                    examination.absent[record.path] = why
                bar.update()
    return examination


def recomputed(record: Record, data: TaskData, cutoffs: Iterable[int]) -> tuple[Run, Any]:
    """Return a result's run and every measure of every query, as a table of `m2kr.metrics.score_queries`.

    Raises:
        M2KRError: the run is not there, cannot be read, or is not the one that the result file names.
    """
    from m2kr.metrics import score_queries

    if not record.run_path.is_file():
        raise M2KRError(f"{record.run_path} is not there; a result is shown with its run.")
    if sha256_of(record.run_path) != record.result["run_sha256"]:
        raise M2KRError(f"{record.run_path} is not the run that {record.path} names: its sha256 differs.")
    run = Run.read_trec(record.run_path)
    answers = data.answers
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows()) if answers is not None else None
    return run, score_queries(run, data.qrels, answers=answers, passages=texts, ks=cutoffs)


def mismatches(record: Record, table: Any) -> list[str]:
    """Return the measures of a result that differ from those computed, as sentences.

    Args:
        record: a result.
        table: of `recomputed`; measures of the result that it lacks are not looked at.
    """
    found = []
    for name, value in record.result["metrics"].items():
        if name in table.columns:
            computed = float(table[name].mean() or 0.0)
            if abs(computed - value) > TOLERANCE:
                found.append(f"{name} is {value:.6f} in the file, and {computed:.6f} computed from the run")
    return found


def _why_not(record: Record, data: TaskData) -> str | None:
    result = record.result
    if result["dataset"] != data.fingerprint:
        return "it was made with other data"
    if (result["queries"], result["passages"]) != (data.queries.height, data.passages.height):
        return "it has other numbers of queries or passages than the benchmark"
    if not record.run_path.is_file():
        return "its run is not beside it"
    return None


def _look(record: Record, data: TaskData, pictures: Pictures, shown: int) -> Examined:
    headline = record.result["headline"]
    run, table = recomputed(record, data, {int(name.split("@")[1]) for name in headline})
    differ = mismatches(record, table)
    if differ:
        raise M2KRError(f"{record.path} is refused: {differ[0]}. Evaluate again, or take the file out.")
    hits = {name: table[name].to_numpy() for name in headline if name in table.columns}
    failed = hits[headline[0]] == 0
    rows = _chosen(data.queries["question_id"].to_list(), failed, shown)
    queries = list(_shown_queries(run, data, rows, failed, pictures))
    queries.sort(key=lambda query: (not query.failed, -(query.found_at or 1 << 30)))
    return Examined(hits, int(failed.sum()), queries)


def _chosen(ids: Sequence[str], failed: npt.NDArray[np.bool_], shown: int) -> list[int]:
    """Return rows to show: of the queries ordered by a hash, so that models share them, three failures to a success."""
    order = sorted(range(len(ids)), key=lambda row: digest(ids[row]))
    failures = [row for row in order if failed[row]]
    others = [row for row in order if not failed[row]]
    kept = min(len(others), max(shown - len(failures), shown // 4))
    return failures[: shown - kept] + others[:kept]


def _shown_queries(
    run: Run, data: TaskData, rows: Sequence[int], failed: npt.NDArray[np.bool_], pictures: Pictures
) -> Iterator[Query]:
    places = {query: number for number, query in enumerate(run.query_ids)}
    all_answers = data.answers or {}
    needed: set[str] = set()
    chosen: list[tuple[int, str, list[str], list[float]]] = []
    for row in rows:
        question_id = data.queries["question_id"][row]
        place = places.get(question_id)
        ids = run.passage_ids[place] if place is not None else []
        scores = run.scores[place].tolist() if place is not None else []
        chosen.append((row, question_id, ids, scores))
        needed.update(ids[:SHOWN_TOP], data.qrels[question_id])
    import polars as pl

    content = data.passages.filter(pl.col("passage_id").is_in(list(needed)))
    texts: dict[str, str] = dict(content.select("passage_id", "passage_content").iter_rows())
    for row, question_id, ids, scores in chosen:
        positives, answers = data.qrels[question_id], all_answers.get(question_id, [])
        ranks = {passage: rank for rank, passage in enumerate(ids, start=1)}
        found = sorted(ranks[passage] for passage in positives if passage in ranks)
        gold = sorted(positives, key=lambda passage: ranks.get(passage, 1 << 30))[:SHOWN_GOLD]

        def shown(
            passage: str,
            positives: Sequence[str] = positives,
            answers: Sequence[str] = answers,
            ranks: Mapping[str, int] = ranks,
            scores: Sequence[float] = scores,
        ) -> Passage:
            parts, has_answer = excerpt(texts.get(passage, "(not among the passages)"), answers)
            rank = ranks.get(passage)
            score = None if rank is None else scores[rank - 1]
            return Passage(passage, parts, rank, score, passage in positives, has_answer)

        yield Query(
            question_id=question_id,
            question=data.queries["question"][row] or "",
            instruction=(data.queries["instruction"][row] or "").rstrip(": "),
            answers=list(dict.fromkeys(answers)),  # several people may have given the same
            picture=pictures.of(row),
            failed=bool(failed[row]),
            found_at=found[0] if found else None,
            positives=len(positives),
            gold=[shown(passage) for passage in gold],
            top=[shown(passage) for passage in ids[:SHOWN_TOP]],
        )


class Pictures:
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
        from m2kr.images.roots import ImageError

        try:
            picture = self.data.query_image(row).convert("RGB")
        except ImageError:
            return None  # the page says that it is missing
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        with atomic(self.out / name, durable=False) as file:
            # Decoded and written anew: nothing of the file that came with the data reaches the site.
            picture.save(file, format="JPEG", quality=80, optimize=True)
        return name
