"""Runs: what was retrieved for each query, and its TREC file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from m2kr.common.files import atomic
from m2kr.common.progress import progress
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    import polars as pl

_WRITTEN_QUERIES = 256
"""Queries whose lines are written at once; of 500 passages each, they take some 20 MB."""

_BOM = "\ufeff"
_LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = (int, float, np.integer, np.floating)


@dataclass(frozen=True)
class Run:
    """What was retrieved for each query, best first.

    Attributes:
        query_ids: n ids.
        passage_ids: for each query, the ids of its passages.
        scores: for each query, as many scores, float32, not increasing.

    Raises:
        M2KRError: there are not as many lists, or in one of them not as many scores, as there are ids; a query stands
            twice; an id is no text; scores are NaN or increase.
    """

    query_ids: list[str]
    passage_ids: list[list[str]]
    scores: list[npt.NDArray[np.float32]]

    def __post_init__(self) -> None:
        counts = [len(self.query_ids), len(self.passage_ids), len(self.scores)]
        if len(set(counts)) > 1:
            raise M2KRError("a run has {} queries, {} lists of passages and {} of scores.".format(*counts))
        check_ids(self.query_ids, "query", "a run")
        check_ids(chain.from_iterable(self.passage_ids), "passage", "a run")
        if len(set(self.query_ids)) < len(self.query_ids):
            twice = next(name for name in self.query_ids if self.query_ids.count(name) > 1)
            raise M2KRError(f"a run holds the query {twice!r} more than once.")
        for query, passages, scores in zip(self.query_ids, self.passage_ids, self.scores, strict=True):
            _check_ranked(query, passages, scores)

    @classmethod
    def from_dict(cls, run: Mapping[str, Mapping[str, float]]) -> Run:
        """Return a run from query id -> passage id -> score, ordered by (score, passage id), both descending.

        Scores are compared in float32, as they are written and as trec_eval reads them.

        Raises:
            M2KRError: it is no such thing, an id is no text, or a score is no number or NaN.
        """
        if not isinstance(run, Mapping):
            raise M2KRError(f"a run is {run!r:.100}; it has to be a Run, or a dict: query id -> passage id -> score.")
        ordered = {}
        for query, found in run.items():
            if not isinstance(found, Mapping):
                raise M2KRError(f"the run of query {query!r} is {found!r:.100}; it has to be a dict: id -> score.")
            check_ids(found, "passage", f"the run of query {query!r}")
            scores = _checked_scores(query, found)
            if np.isnan(scores).any():  # said before they are ordered, which NaN cannot be
                _check_ranked(query, list(found), scores)
            ordered[query] = sorted(zip(scores.tolist(), found, strict=True), reverse=True)
        return cls(
            list(ordered),
            [[passage for _, passage in pairs] for pairs in ordered.values()],
            [np.array([value for value, _ in pairs], dtype=np.float32) for pairs in ordered.values()],
        )

    def write_trec(self, path: Path, tag: str, *, quiet: bool = True) -> None:
        """Write ``query Q0 passage rank score tag`` lines, gzipped; equal runs give equal bytes.

        Ids are written as `escaped_ids` says, since the format is separated by blanks; `read_trec` undoes it.
        A score is written in as many digits as give the float32 back exactly.
        """
        import polars as pl
        from isal import igzip

        def ids(names: Iterable[str]) -> pl.Series:
            return escaped_ids(pl.Series(list(names), dtype=pl.String))

        label = pl.lit(_escaped(tag))
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
                            "query": ids(self.query_ids[part]).gather(np.repeat(np.arange(len(found)), lengths)),
                            "passage": ids(chain.from_iterable(found)),
                            "rank": np.concatenate([np.arange(1, length + 1) for length in lengths]),
                            "score": np.concatenate(scores).astype(np.float32, copy=False),
                        }
                    )
                    line = pl.concat_str("query", pl.lit("Q0"), "passage", "rank", "score", label, separator=" ")
                    file.write((columns.select(line.str.join("\n")).item() + "\n").encode())  # type: ignore[no-untyped-call]
                bar.update(len(found))

    @classmethod
    def read_trec(
        cls,
        path: Path,
        *,
        queries: Collection[str] | None = None,
        passages: Collection[str] | None = None,
        finite: bool = False,
        told: Callable[[str], None] | None = None,
    ) -> Run:
        """Read a TREC run, gzipped or not, ordered by (score, passage id) as trec_eval does, whatever its rank column.

        Fields stand apart by any number of blanks and tabs. A byte order mark and empty lines at the end are passed
        over. Ids written as %XX come back, unless only what is written is among the known ids.

        Args:
            path: the file.
            queries: ids of the queries there are, a set; None: any.
            passages: likewise of the passages.
            finite: refuse infinite scores too. Minus infinity stands in runs of ours for passages without vectors.
            told: is called with a line about it where the rank column says another order than the scores.

        Raises:
            M2KRError: the file cannot be read; a line does not have six fields, is no UTF-8, names a query or passage
                that is not known or a passage for the second time, or has a score that is no number, NaN or, with
                ``finite``, infinite in float32.
        """
        run: dict[str, dict[str, float]] = {}
        ranks: dict[str, list[bytes]] = {}
        query_of, passage_of = _names("query", queries), _names("passage", passages)
        number = empty = 0
        try:
            with path.open("rb") as raw:
                lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
                for number, line in enumerate(lines, start=1):
                    fields = (line.removeprefix(_BOM.encode()) if number == 1 else line).split()
                    if not fields and run:
                        empty = empty or number
                        continue
                    if empty:
                        number = empty
                        raise ValueError("an empty line where others follow")
                    if len(fields) != 6:
                        raise ValueError(f"{len(fields)} fields where 6 are expected: query Q0 passage rank score tag")
                    if not line.isascii():
                        line.decode("utf-8")
                    query, passage, score = query_of(fields[0]), passage_of(fields[2]), _number(fields[4])
                    if not -_LARGEST <= score <= _LARGEST and (finite or score != score):
                        raise ValueError(f"the score is {fields[4].decode()}, which is not finite")
                    found = run.setdefault(query, {})
                    if passage in found:
                        raise ValueError(f"the passage {passage!r} stands there for query {query!r} a second time")
                    found[passage] = score
                    if told:
                        ranks.setdefault(query, []).append(fields[3])
        except UnicodeDecodeError as error:
            raise M2KRError(f"{path}, line {number}: the bytes are no UTF-8 ({error.reason}).") from error
        except ValueError as error:
            raise M2KRError(f"{path}, line {number}: {error}.") from error
        except (OSError, EOFError, zlib.error) as error:
            raise M2KRError(f"{path} cannot be read as a run ({error}).") from error
        other = [query for query, column in ranks.items() if _is_other_order(column, run[query].values())]
        if told and other:
            told(
                f"{path}: the ranks of {len(other):,} of {len(run):,} queries contradict the scores, first those of "
                f"query {other[0]!r}. Passages are ordered by score, equal ones by id, the larger first, as trec_eval "
                "does, and not by rank"
            )
        return cls.from_dict(run)


def _is_other_order(ranks: Sequence[bytes], scores: Iterable[float]) -> bool:
    """Whether some passage with a better (lower) rank than another has a lower score. Ranks that tie say nothing."""
    try:
        column = np.array(ranks).astype(np.float64)
    except ValueError:  # no numbers, so they are of no order
        return False
    values = np.fromiter(scores, dtype=np.float32)
    ordered = values[np.lexsort((-values, column))]
    return bool((ordered[1:] > ordered[:-1]).any())


def check_ids(ids: Iterable[object], what: str, where: str) -> None:
    """Raise `M2KRError` where an id is no text: a number would equal none of the ids of the tables."""
    for kind, name in {type(name): name for name in ids}.items():
        if not issubclass(kind, str):
            raise M2KRError(f"{where} holds the {what} id {name!r}, of type {kind.__name__}; ids are text (str).")


def _checked_scores(query: str, found: Mapping[str, object]) -> npt.NDArray[np.float32]:
    """Return the scores of a query as an array."""
    for kind, passage in {type(value): name for name, value in found.items()}.items():
        if not issubclass(kind, _NUMBERS):
            value = f"{found[passage]!r:.100}"
            raise M2KRError(f"the score of query {query!r} and passage {passage!r} is {value}, which is no number.")
    return np.array(list(found.values()), dtype=np.float32)


def _check_ranked(query: str, passages: Sequence[str], scores: npt.NDArray[np.float32]) -> None:
    """Raise `M2KRError` where scores cannot be those of so many passages, best first."""
    values = np.asarray(scores)
    if values.shape != (len(passages),):
        raise M2KRError(f"query {query!r} has {len(passages)} passages, and scores of shape {values.shape}.")
    if np.isnan(values).any():
        passage = passages[int(np.isnan(values).argmax())]
        raise M2KRError(f"the score of query {query!r} and passage {passage!r} is NaN, which has no rank.")
    if (rises := values[1:] > values[:-1]).any():
        passage = passages[int(rises.argmax()) + 1]
        raise M2KRError(f"query {query!r} has a higher score at the passage {passage!r} than before: best comes first.")


def _number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError as error:
        raise ValueError(f"the score is no number, but {field.decode()!r:.100}") from error


def _names(what: str, known: Collection[str] | None) -> Callable[[bytes], str]:
    """Return what reads the ids of queries or passages, each once."""

    @cache
    def name(field: bytes) -> str:
        written = field.decode("utf-8")
        plain = unquote(written)
        if known is None or plain in known:
            return plain
        if written not in known:  # other tools write ids with "%" as they are
            raise ValueError(f"the {what} {plain!r} is not of the task")
        return written

    return name


def escaped_ids(ids: pl.Series) -> pl.Series:
    """Return ids as TREC files hold them: white space, "%" and byte order marks as %XX."""
    import polars as pl

    # Most ids need none of it, and there are millions.
    if not ids.str.contains(rf"[\s%\x1c-\x1f{_BOM}]").any():
        return ids
    return pl.Series(ids.name, map(_escaped, ids), dtype=pl.String)


def _escaped(name: str) -> str:
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode("utf-8")) if c in ("%", _BOM) or c.isspace() else c for c in name
    )
