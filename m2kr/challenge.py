"""Answer the M2KR track of a challenge: ``python -m m2kr.challenge --data M2KR-Challenge --model preflmr-vit-l``.

The challenge (EReL@MIR, WWW 2025) gives questions with pictures, ``challenge_data/train-*.parquet`` (question_id,
question, img_path), and passages, ``challenge_passage/train-*.parquet`` (passage_id, passage_content, page_screenshot),
and keeps the positives to itself. A run and the CSV to hand in are written; with ``--truth`` they are scored, too. Of
passages the text is read, not the picture of the page.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.cli import option, parse
from m2kr.common.options import LimitOption, LoadOptions
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import MODELS, TaskOptions
from m2kr.tasks import Task

if TYPE_CHECKING:
    import polars as pl

    from m2kr.dataset import TaskData
    from m2kr.results.run import Run

CHALLENGE = Task(
    key="challenge",
    title="M2KR-Challenge",
    kind="IQ2T",
    description="Questions with pictures, whose answers stand in passages made from pictures of pages.",
    citation="",
    published={"test": (0, 0)},
    metrics=(),
    instructions=(),
    source="",
    releases=(),
    query_columns={"question_id": "string", "question": "string", "img_path": "string"},
    passage_columns={"passage_id": "string", "passage_content": "string"},
)
"""The challenge as a task. It is none of the benchmark's, so it is not among `m2kr.tasks.TASKS`."""

CUTOFFS = (1, 3, 5)
"""Of the Recall that the challenge takes the mean of."""

_TABLES = ("challenge_data", "challenge_passage")
_PICTURES = "query_images"
# Folder of the questions' pictures, beside the tables.
_EXAMPLES = """examples:
  python -m m2kr.challenge --data M2KR-Challenge --model preflmr-vit-l --images M2KR-Challenge/query_images
  python -m m2kr.challenge --data M2KR-Challenge --model bm25 --ignore-images --truth truth.csv
  python -m m2kr.export results --to challenge --out csv
"""


@dataclass(frozen=True, kw_only=True)
class ChallengeOptions(TaskOptions, LoadOptions, LimitOption):
    """Options of the command."""

    data: Path = option("folder of the challenge's data")
    model: str = option(MODELS)
    instruction: str | None = option("in front of every question; default: none", None)
    images: tuple[str, ...] = option(
        f"the questions' pictures: folder or archive; repeatable; default {_PICTURES} in the folder of the data",
        (),
        metavar="ROOT",
    )
    truth: Path | None = option("CSV of question_id and passage_id, a JSON list of the positives", None, metavar="FILE")
    out: Path = option("folder of results", Path("results"))


def load_challenge(
    folder: Path, *, images: Sequence[str] = (), instruction: str = "", limit: int | None = None
) -> TaskData:
    """Load the challenge's questions and passages; without judgements.

    Args:
        folder: holds ``challenge_data`` and ``challenge_passage``.
        images: where the questions' pictures are; without it, ``query_images`` in the folder where it is there.
        instruction: in front of every question.
        limit: keep the first so many questions only.

    Raises:
        M2KRError: a table is not there, cannot be read, lacks a column, or has an id that is empty or stands twice; a
            passage has no text.
    """
    import polars as pl

    from m2kr.common.files import digest
    from m2kr.dataset import TaskData
    from m2kr.formats.integrity import identify
    from m2kr.formats.shards import split_shards
    from m2kr.images.roots import parse_roots

    if not folder.is_dir():
        raise M2KRError(f"{folder} is no folder. Name that of the challenge's data, with {' and '.join(_TABLES)}.")
    shards = [split_shards(folder, name, "train") for name in _TABLES]
    identity = identify(folder, CHALLENGE, [*shards[0], *shards[1]])
    queries, passages = _table(shards[0], CHALLENGE.query_columns), _table(shards[1], CHALLENGE.passage_columns)
    for file in identity.files:
        file.check_unchanged()  # it was this that was read
    without = passages.filter(pl.col("passage_content").is_null())["passage_id"]
    if len(without):
        raise M2KRError(f"{shards[1][0].parent}: the passage {without[0]!r} has no text.")
    limited = limit is not None and limit < queries.height
    beside = folder / _PICTURES
    pictures = list(images) or ([str(beside)] if beside.is_dir() else [])
    return TaskData(
        task=CHALLENGE,
        split="test",
        queries=queries.head(limit or queries.height).with_columns(instruction=pl.lit(instruction)),
        passages=passages,
        qrels={},
        images=parse_roots(pictures).for_task(CHALLENGE) if pictures else None,
        fingerprint=f"{identity.fingerprint}-{digest(instruction)}" if instruction else identity.fingerprint,
        limited=limited,
        files=identity.files,
    )


def _table(shards: Sequence[Path], wanted: Iterable[str]) -> pl.DataFrame:
    """Return these columns of a table as texts; the first is its id."""
    import polars as pl

    from m2kr.formats.shards import readable

    where, columns = shards[0].parent, list(wanted)
    with readable(where, "Get these files again."):
        lazy = pl.scan_parquet(list(shards))
        found = lazy.collect_schema()
        if lacking := [name for name in columns if name not in found]:
            raise M2KRError(f"{where} has no column {', '.join(lacking)}; the challenge's has {', '.join(columns)}.")
        for name in columns:
            if not (found[name] in (pl.String, pl.Null) or found[name].is_integer()):
                raise M2KRError(f"{where}: the column {name} has the type {found[name]}, and should hold texts.")
        table = lazy.select(pl.col(name).cast(pl.String) for name in columns).collect()
    ids = table[columns[0]]
    if not len(ids):
        raise M2KRError(f"{where} has no rows.")
    if ids.null_count() or (ids.str.strip_chars() == "").any():
        raise M2KRError(f"{where}: a row has no {columns[0]}.")
    if len(twice := ids.filter(ids.is_duplicated())):
        raise M2KRError(f"{where}: the {columns[0]} {twice[0]!r} stands twice.")
    return table


def read_truth(path: Path, data: TaskData) -> dict[str, list[str]]:
    """Return the positives of questions: question_id -> ids of passages.

    Raises:
        M2KRError: the file is not there or not of the form of the challenge, or it lacks a question, names one or a
            passage that there is not, or one twice.
    """
    if not path.is_file():
        raise M2KRError(f"{path} is no file.")
    asked, known = set(data.queries["question_id"]), set(data.passages["passage_id"])
    found: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                question, listed = _positives(row)
                where = f"{path}, the question {question!r}"
                if question in found:
                    raise M2KRError(f"{where} stands twice.")
                if unknown := [name for name in listed if name not in known]:
                    raise M2KRError(f"{where}: there is no passage {unknown[0]!r}.")
                found[question] = listed
    except (ValueError, csv.Error) as error:
        raise M2KRError(
            f"{path} is no CSV of question_id and passage_id, a JSON list of ids, as the challenge has them ({error})."
        ) from error
    if lacking := sorted(asked - found.keys()):
        raise M2KRError(f"{path} lacks {len(lacking):,} questions, the first is {lacking[0]!r}.")
    if not data.limited and (other := sorted(found.keys() - asked)):
        raise M2KRError(f"{path} has {len(other):,} questions that are not asked, the first is {other[0]!r}.")
    return {question: positives for question, positives in found.items() if question in asked}


def _positives(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    listed = json.loads(row.get("passage_id") or "null")
    if not row.get("question_id") or not isinstance(listed, list) or not listed:
        raise ValueError(f"a line holds {dict(row)!r:.200}")
    return row["question_id"], [str(name) for name in listed]


def score_challenge(run: Run, truth: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return Recall@1, @3 and @5, as `m2kr.metrics` has it, and their mean, "mean Recall@{1,3,5}"."""
    from m2kr.metrics import score

    metrics = score(run, truth, ks=CUTOFFS)
    found = {f"Recall@{k}": metrics[f"Recall@{k}"] for k in CUTOFFS}
    return {**found, "mean Recall@{1,3,5}": sum(found.values()) / len(found)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        ChallengeOptions,
        argv,
        prog="python -m m2kr.challenge",
        description="Answer the M2KR track of the document retrieval challenge of WWW 2025.",
        epilog=_EXAMPLES,
    )
    from m2kr.common.files import safe_name
    from m2kr.evaluate.task import retrieve_task
    from m2kr.export.challenge import LISTED, write_csv
    from m2kr.retriever import get_retriever

    data = load_challenge(
        options.data, images=options.images, instruction=options.instruction or "", limit=options.limit
    )
    if (fewest := min(options.top_k, data.passages.height)) < LISTED or options.bad_images == "skip":
        why = f"{fewest} passages" if fewest < LISTED else "none of a question with a bad picture (--bad-images skip)"
        raise M2KRError(f"the challenge takes {LISTED} passages of each question, and there would be {why}.")
    truth = None if options.truth is None else read_truth(options.truth, data)
    retriever = get_retriever(options.model, **options.loading)
    folder = options.out / safe_name(retriever.name)
    run, path = retrieve_task(retriever, data, folder, options)
    listed = path.with_name(path.name.replace(".run.trec.gz", ".csv"))
    write_csv(run, listed, data.queries["question_id"])
    say(f"{path}, {listed}", quiet=options.quiet)
    for name, value in (score_challenge(run, truth) if truth else {}).items():
        print(f"{name} {100 * value:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
