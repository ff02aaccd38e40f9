"""Runs: what was retrieved for each query, and its TREC file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
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

        label = pl.lit(escape_id(tag))
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
    return pl.Series(map(escape_id, names), dtype=pl.String) if series.str.contains(r"[\s%\x1c-\x1f]").any() else series


def escape_id(name: str) -> str:
    """Return an id as TREC files hold it: white space and "%" as %XX."""
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode("utf-8")) if c == "%" or c.isspace() else c for c in name
    )
