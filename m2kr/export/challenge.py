"""Runs in the form of the M2KR track of a challenge (EReL@MIR, WWW 2025): a CSV of five passages for each question.

Its columns are ``question_id`` and ``passage_id``, a JSON list of ids, best first.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from m2kr.common.files import atomic, safe_name
from m2kr.common.locks import one_writer
from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.export.files import open_folder
from m2kr.results.record import read_result, read_run
from m2kr.results.run import Run

LISTED = 5
"""Passages of a question."""

COLUMNS = ("question_id", "passage_id")


def write_csv(run: Run, path: Path, questions: Iterable[str] | None = None) -> None:
    """Write the first five passages of every question.

    Args:
        run: what was found.
        path: the file.
        questions: those that have to be there, in their order; None: those of the run.

    Raises:
        M2KRError: a question has fewer than five, as the challenge takes five of each.
    """
    found = dict(zip(run.query_ids, run.passage_ids, strict=True))
    lines = []
    for question in run.query_ids if questions is None else questions:
        passages = found.get(question, [])[:LISTED]
        if len(passages) < LISTED:
            raise M2KRError(
                f"{path.name}: {len(passages)} passages were found for the question {question!r}, and the challenge "
                f"takes {LISTED} of each. Search more passages, or keep more (--top-k)."
            )
        lines.append((question, json.dumps(passages, ensure_ascii=False)))
    with atomic(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)


def export_runs(results: Path, out: Path, *, quiet: bool = False) -> list[Path]:
    """Write the runs under ``results`` as ``<out>/<model>/<TASK>.csv``.

    Args:
        results: folder of results, or of those of one model.
        out: new folder, or an export to this form.
        quiet: no progress.

    Raises:
        M2KRError: there are no runs; one cannot be read, is not that of the result beside it, or has fewer than five
            passages of a question; ``out`` holds something else.
    """
    if not results.is_dir():
        raise M2KRError(f"{results} is not a folder. Name a folder of results, as m2kr.evaluate writes them.")
    runs = sorted([*results.glob("*.run.trec.gz"), *results.glob("*/*.run.trec.gz")])
    if not runs:
        raise M2KRError(f"{results} holds no run. Make some with python -m m2kr.evaluate, or m2kr.challenge.")
    written = []
    bar = progress(len(runs), "export runs", unit="files", quiet=quiet)
    with one_writer(out, quiet=quiet), bar:
        open_folder(out, "challenge")
        for path in runs:
            name = path.name.removesuffix(".run.trec.gz")
            beside = path.with_name(f"{name}.json")
            run = read_run(path, read_result(beside)) if beside.is_file() else Run.read_trec(path)
            file = out / safe_name(path.resolve().parent.name) / f"{safe_name(name)}.csv"
            write_csv(run, file)
            written.append(file)
            bar.update()
    return written
