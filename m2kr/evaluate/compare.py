"""Comparing result files with the first of them, task by task: ``python -m m2kr.evaluate --compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from m2kr.common.text_table import aligned
from m2kr.dataset import TaskData, load_task, nano_subset
from m2kr.errors import M2KRError
from m2kr.results.record import Result, read_result, read_run
from m2kr.results.table import notes_on
from m2kr.significance import compare

_FEW_QUERIES = 30
_TO_BE_EQUAL = {
    "ignored_inputs": "inputs that were left out",
    "bad_images": "pictures that could not be read",
    "passage_images": "uses of the passages' pictures",
    "top_k": "numbers of passages kept for each query",
    "dtype": "number formats",
}


def compare_results(paths: Sequence[Path], data: str, *, trust: bool = False) -> str:
    """Return tables that compare results with the first, one for each task that all of them have.

    The measures of each query are computed anew from the runs, which stand beside the result files.

    Args:
        paths: result files, runs beside them, or folders of result files (``results/bm25``).
        data: the benchmark they were evaluated on.
        trust: compare the sizes of its files with its manifest, not their hashes.

    Raises:
        M2KRError: there are fewer than two, they share no task, or they are of different data or queries, or a run
            is not the one of its result.
    """
    if len(paths) < 2:
        raise M2KRError("--compare needs two results or more: result files, or folders of them such as results/bm25.")
    found = [_results_at(path) for path in paths]
    shared = [name for name in found[0] if all(name in others for others in found)]
    if not shared:
        has = "; ".join(
            f"{path} has {', '.join('.'.join(name) for name in there)}"
            for path, there in zip(paths, found, strict=True)
        )
        raise M2KRError(f"these results share no task and split: {has}. Compare results of the same.")
    tables = []
    for name in shared:
        files = [there[name] for there in found]
        results = [read_result(file) for file in files]
        loaded, first = _data_of(results, files, data, trust=trust), results[0]
        answers = loaded.answers
        texts = dict(loaded.passages.select("passage_id", "passage_content").iter_rows()) if answers else None
        measures = [measure for measure in first["headline"] if measure in first["metrics"]] + ["MRR@10", "nDCG@10"]
        paths_of_runs = [file.with_name(f"{file.stem}.run.trec.gz") for file in files]
        runs = dict(zip(_labels(results, files), map(read_run, paths_of_runs, results), strict=True))
        frame = compare(runs, loaded.qrels, answers=answers, passages=texts, measures=measures)
        title = f"{' '.join(name)}: {loaded.queries.height:,} queries, {first['passages']:,} passages"
        tables.append("\n".join([title, *_comparison_lines(frame), *_cautions(results, frame)]))
    notes = [
        "in percent, with 95 % intervals of a paired bootstrap over queries (10,000 draws); p of a two-sided paired",
        "t-test, not corrected for the number of comparisons",
    ]
    return "\n\n".join([*tables, "\n".join(notes)])


def _results_at(path: Path) -> dict[tuple[str, ...], Path]:
    """Return the result files of an argument, by task, split and whether they are of a subset."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
    else:
        files = [path.with_name(path.name.replace(".run.trec.gz", ".json"))]
    found: dict[tuple[str, ...], Path] = {}
    for file in files:
        result = read_result(file)
        found[result["task"], result["split"], *(["nano"] if result["nano"] else [])] = file
    if not found:
        raise M2KRError(f"{path} holds no result files. Name the folder of a model, such as results/bm25.")
    return found


def _data_of(results: Sequence[Result], files: Sequence[Path], data: str, *, trust: bool) -> TaskData:
    """Return the data that results are of, after checking that all are of the same and these."""
    first = results[0]
    for key, what in (("dataset", "data"), ("queries", "queries"), ("passages", "passages"), ("seed", "queries")):
        for other, file in zip(results[1:], files[1:], strict=True):
            if other[key] != first[key]:  # type: ignore[literal-required]
                raise M2KRError(
                    f"{files[0]} and {file} are of different {what} ({key} {first[key]!r} and {other[key]!r}), "  # type: ignore[literal-required]
                    "and cannot be compared. Evaluate both on the same."
                )
    limit = first["queries"] if first["limited"] else None
    loaded = load_task(first["task"], data, first["split"], limit=limit, trust=trust)
    if loaded.fingerprint != first["dataset"]:
        raise M2KRError(
            f"{files[0]} is of the data {first['dataset']}, and {data} has {loaded.fingerprint}. Name the benchmark "
            "that was evaluated with --data."
        )
    return nano_subset(loaded, seed=first["seed"] or 0) if first["nano"] else loaded


def _labels(results: Sequence[Result], files: Sequence[Path]) -> list[str]:
    names = [result["model"] for result in results]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _comparison_lines(frame: pl.DataFrame) -> list[str]:
    def percent(value: float, low: float, high: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"

    rows = [("measure", "model", "mean", "difference", "p")]
    for row in frame.iter_rows(named=True):
        apart = row["difference"]
        rows.append(
            (
                row["measure"],
                row["run"],
                percent(row["mean"], row["low"], row["high"]),
                "" if apart is None else percent(apart, row["difference_low"], row["difference_high"], "+"),
                "" if row["p_value"] is None else f"{row['p_value']:.4f}",
            )
        )
    return aligned(rows, left=2)


def _cautions(results: Sequence[Result], frame: pl.DataFrame) -> list[str]:
    """Return what else differs between results, or makes intervals and p-values doubtful."""
    notes = []
    for key, what in _TO_BE_EQUAL.items():
        values = [result.get(key) for result in results]
        if any(value != values[0] for value in values):
            notes.append(f"caution: the results have different {what}: {', '.join(str(value) for value in values)}")
    if results[0]["queries"] < _FEW_QUERIES:
        notes.append(f"caution: with fewer than {_FEW_QUERIES} queries, intervals and p-values are rough")
    for name, count in frame.select("run", "unanswered").unique(maintain_order=True).iter_rows():
        if count:
            notes.append(f"caution: {name} has no passage for {count:,} queries, which score 0")
    return notes + notes_on(results)
