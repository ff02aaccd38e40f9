"""What an evaluation leaves behind: a run in TREC form, and a result file that says how it came about.

``python -m m2kr.results results`` prints the result files of a folder as one table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from m2kr.common.files import atomic, write_json
from m2kr.common.progress import progress
from m2kr.common.text_table import aligned
from m2kr.errors import M2KRError
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import polars as pl


class Result(TypedDict):
    """A result file, ``results/<model>/<TASK>.json``. Every key is always there.

    All but ``seconds``, ``reused``, ``memory`` and ``peak_memory`` are equal for equal evaluations, and all but
    ``quantisation`` where one of them found embeddings and the other did not.
    """

    # 1; changes when a reader of these files has to change.
    format: int
    # Name of the retriever.
    model: str
    # What its output depends on besides: checkpoint, its sha256, constants.
    model_settings: dict[str, Any]
    # Key of the task, and the split of its queries.
    task: str
    split: str
    # Measure -> mean over the queries, between 0 and 1. m2kr.metrics says what each is.
    metrics: dict[str, float]
    # The measures this task is compared by, first the main one.
    headline: list[str]
    # Numbers of queries and of passages searched, and of queries without a positive (they score 0).
    queries: int
    passages: int
    queries_without_positive: int
    # Identifies the tables: results of different fingerprints are not comparable.
    dataset: str
    # The data are made up; scores compare with no published figure.
    synthetic: bool
    # Only the first queries were evaluated.
    limited: bool
    # Only a small subset of queries and passages was evaluated, drawn with ``seed``; without it null: nothing else in
    # an evaluation is left to chance.
    nano: bool
    seed: int | None
    # Kinds of input the task has and the retriever was not given: ["image"] after --ignore-images.
    ignored_inputs: list[str]
    # Whether the task's instruction stood in front of each question.
    instructions: bool
    # Always "exact": every query was compared with every passage.
    search: str
    # Passages kept for each query.
    top_k: int
    # As torch names it. Of several, with commas, the first encoded and all searched.
    device: str
    # Of the model, of its queries, and, if it encodes any, of the stored passages.
    dtype: str
    store_dtype: str
    # With passages in 8 bits, what that did to a sample: the fields of m2kr.search.int8.Effect, and how many ``passages``
    # took part. With fewer than the task has there are fewer rivals, so the effect on the task is larger. Else null.
    quantisation: dict[str, float] | None
    batch_size: int
    # Processor or graphics card that encoded and searched; of several the first.
    hardware: str
    # Seconds of wall time of each phase. That of an encoding that was interrupted is the sum of its parts; that of one
    # that was found is what it took when it was made.
    seconds: dict[str, float]
    # Phases whose embeddings were found, kept by an earlier evaluation (--keep-embeddings).
    reused: list[str]
    # Largest resident memory of the process during each phase, bytes, without the processes that decode pictures.
    memory: dict[str, int]
    # The largest of those.
    peak_memory: int
    # Versions of m2kr, python, torch, transformers, sentence-transformers, numpy, polars, ranx.
    versions: dict[str, str]
    # Git commit of the code where it runs from a checkout, with "+changes" if files differ from it; else null.
    commit: str | None
    # Hash of the run file, which stands beside this one.
    run_sha256: str
    # Digest of all settings the scores depend on; a finished task with the same key is not run again.
    key: str


RESULT_FORMAT = 1

_WRITTEN_QUERIES = 256
"""Queries whose lines are written at once; of 500 passages each, they take some 20 MB."""


@dataclass(frozen=True)
class Run:
    """What was retrieved for each query, best first.

    Attributes:
        query_ids: n ids.
        passage_ids: for each query, the ids of its passages.
        scores: for each query, as many scores, float32, not increasing.
    """

    query_ids: list[str]
    passage_ids: list[list[str]]
    scores: list[npt.NDArray[np.float32]]

    @classmethod
    def from_dict(cls, run: Mapping[str, Mapping[str, float]]) -> Run:
        """Return a run from query id -> passage id -> score, ordered by (score, passage id), both descending.

        Scores are compared in float32, as they are written and as trec_eval reads them.

        Raises:
            M2KRError: a score is NaN.
        """
        ordered = {}
        for query, found in run.items():
            scores = np.array(list(found.values()), dtype=np.float32)
            if np.isnan(scores).any():
                passage = list(found)[int(np.isnan(scores).argmax())]
                raise M2KRError(f"the score of query {query!r} and passage {passage!r} is NaN, which has no rank.")
            ordered[query] = sorted(zip(scores.tolist(), found, strict=True), reverse=True)
        return cls(
            list(ordered),
            [[passage for _, passage in pairs] for pairs in ordered.values()],
            [np.array([value for value, _ in pairs], dtype=np.float32) for pairs in ordered.values()],
        )

    def write_trec(self, path: Path, tag: str, *, quiet: bool = True) -> None:
        """Write ``query Q0 passage rank score tag`` lines, gzipped; equal runs give equal bytes.

        White space and "%" in ids are written as %XX, since the format is separated by blanks; `read_trec` undoes it.
        A score is written in as many digits as give the float32 back exactly.
        """
        import polars as pl
        from isal import igzip

        label = pl.lit(_escape(tag))
        with (
            atomic(path) as raw,
            igzip.IGzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=1) as file,  # type: ignore[no-untyped-call]
            progress(len(self.query_ids), f"write {path.name}", unit="queries", quiet=quiet) as bar,
        ):
            for first in range(0, len(self.query_ids), _WRITTEN_QUERIES):
                part = slice(first, first + _WRITTEN_QUERIES)
                found, scores = self.passage_ids[part], self.scores[part]
                lengths = np.array([len(passages) for passages in found])
                if lengths.any():
                    columns = pl.DataFrame(
                        {
                            "query": _escaped(self.query_ids[part]).gather(np.repeat(np.arange(len(found)), lengths)),
                            "passage": _escaped(list(chain.from_iterable(found))),
                            "rank": np.concatenate([np.arange(1, length + 1) for length in lengths]),
                            "score": np.concatenate(scores).astype(np.float32, copy=False),
                        }
                    )
                    line = pl.concat_str("query", pl.lit("Q0"), "passage", "rank", "score", label, separator=" ")
                    file.write((columns.select(line.str.join("\n")).item() + "\n").encode())  # type: ignore[no-untyped-call]
                bar.update(len(found))

    @classmethod
    def read_trec(cls, path: Path) -> Run:
        """Read a TREC run, gzipped or not, ordered by (score, passage id) as trec_eval does, whatever its rank column.

        Raises:
            M2KRError: the file cannot be read, a line does not have six fields, or a score is no number.
        """
        run: dict[str, dict[str, float]] = {}
        name = cache(unquote)
        try:
            with path.open("rb") as raw:
                lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
                for number, line in enumerate(lines, start=1):
                    fields = line.decode("utf-8", "replace").split()
                    try:
                        query, _, passage, _, value, _ = fields
                        run.setdefault(name(query), {})[name(passage)] = float(value)
                    except ValueError as error:
                        count = len(fields)
                        reason = "the score is no number" if count == 6 else f"{count} fields where 6 are expected"
                        raise M2KRError(f"{path}, line {number}: {reason}. It is no TREC run.") from error
        except (OSError, EOFError, zlib.error) as error:
            raise M2KRError(f"{path} cannot be read as a run ({error}).") from error
        return cls.from_dict(run)


def _escaped(names: Sequence[str]) -> pl.Series:
    import polars as pl

    series = pl.Series(names, dtype=pl.String)
    # Most ids need none of it, and there are millions.
    return pl.Series(map(_escape, names), dtype=pl.String) if series.str.contains(r"[\s%\x1c-\x1f]").any() else series


def _escape(name: str) -> str:
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode("utf-8")) if c == "%" or c.isspace() else c for c in name
    )


def write_result(path: Path, result: Result) -> None:
    """Write a result file, atomically."""
    write_json(path, result)


def read_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        M2KRError: it cannot be read, is no result file of this format, lacks a key, or is of an unknown task.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise M2KRError(f"{path} is no result file ({error}).") from error
    if not isinstance(result, dict):
        raise M2KRError(f"{path} is no result file: it holds no JSON object.")
    if result.get("format", RESULT_FORMAT) != RESULT_FORMAT:
        raise M2KRError(f"{path} has format {result['format']!r}; this version reads {RESULT_FORMAT}.")
    lacking = [key for key in Result.__annotations__ if key not in result]
    if lacking:
        raise M2KRError(f"{path} is no result file: it lacks {', '.join(lacking[:5])}.")
    if not isinstance(result["task"], str) or result["task"] not in TASKS:
        raise M2KRError(f"{path} is of the task {result['task']!r}, which this version does not know.")
    return cast(Result, result)


def read_results(folder: Path) -> list[Result]:
    """Return the results under ``folder``, ordered by task, then model."""
    order = list(TASKS)
    results = [read_result(path) for path in sorted(folder.glob("*/*.json"))]
    return sorted(results, key=lambda result: (order.index(result["task"]), result["split"], result["model"]))


def table(results: Sequence[Result]) -> str:
    """Return results as a table: one row for each model and task, the headline measures in percent.

    A star marks a row whose queries or passages were cut or whose images were ignored; made-up data are said below the
    table.
    """
    header = ("task", "split", "model", "queries", "passages", "R@K", "PR@K", "MRR@10", "nDCG@10")
    rows = [header]
    for result in results:
        shown = {"Recall": "-", "PRecall": "-"}
        for name in result["headline"]:
            kind, cutoff = name.split("@")
            shown[kind] = f"{100 * result['metrics'][name]:.1f} @{cutoff}" if name in result["metrics"] else "-"
        marked = result["model"] + ("*" if result["limited"] or result["nano"] or result["ignored_inputs"] else "")
        rows.append(
            (
                result["task"],
                result["split"],
                marked,
                f"{result['queries']:,}",
                f"{result['passages']:,}",
                shown["Recall"],
                shown["PRecall"],
                f"{100 * result['metrics']['MRR@10']:.1f}",
                f"{100 * result['metrics']['nDCG@10']:.1f}",
            )
        )
    return "\n".join(aligned(rows, left=3) + notes_on(results))


def notes_on(results: Sequence[Result]) -> list[str]:
    """Return what has to be said below a table of these results."""
    notes = []
    if any(result["ignored_inputs"] for result in results):
        notes.append("* the queries' images were not given to this model (--ignore-images)")
    if any(result["limited"] for result in results):
        notes.append("* only the first queries were evaluated (--limit)")
    if any(result["nano"] for result in results):
        notes.append("* only a small subset was evaluated, which is much easier than the task (--nano)")
    if any(result["synthetic"] for result in results):
        notes.append("made-up data: these scores compare with no published figure")
    return notes


def main(argv: Sequence[str] | None = None) -> int:
    """Print the results of a folder as one table, those of answering as another."""
    from m2kr.answer.task import answer_table, read_answer_results

    parser = argparse.ArgumentParser(prog="python -m m2kr.results", description="Print result files as tables.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results"), help="default: results")
    arguments = parser.parse_args(argv)
    results, answers = read_results(arguments.folder), read_answer_results(arguments.folder)
    if not results and not answers:
        raise M2KRError(f"{arguments.folder} holds no result files. Make some with python -m m2kr.evaluate.")
    print("\n\n".join([*([table(results)] if results else []), *([answer_table(answers)] if answers else [])]))
    return 0
