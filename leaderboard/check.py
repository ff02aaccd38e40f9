"""``python -m leaderboard check FILE``: whether a submitted result is what its run and the benchmark give."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from leaderboard.examine import mismatches, recomputed
from leaderboard.runs import Record
from leaderboard.validate import read_valid_result
from m2kr.errors import M2KRError, run_command


def check(path: Path, data: str) -> list[str]:
    """Return what is wrong with a result file and its run, as sentences; nothing where all is well.

    Every measure is computed anew from the run. The times, the memory and the settings cannot be checked.

    Args:
        path: a result file; its run stands beside it.
        data: the benchmark it was evaluated on.

    Raises:
        M2KRError: the file or the run cannot be read, or the benchmark is not the one that was evaluated.
    """
    from m2kr.dataset import load_task, nano_subset

    if not path.is_file():
        raise M2KRError(f"{path} is no file. Name a result file, such as results/my-model/OKVQA.json.")
    record = Record(path, read_valid_result(path), path.parent.name)
    result = record.result
    task, split, limit, seed = record.selection
    loaded = load_task(task, data, split, limit=limit)
    if loaded.fingerprint != result["dataset"]:
        raise M2KRError(
            f"{path} is of the data {result['dataset']}, and {data} has {loaded.fingerprint} for {task}, so it cannot "
            "be checked with it. Name the benchmark that was evaluated with --data."
        )
    if seed is not None:
        loaded = nano_subset(loaded, seed=seed)
    cutoffs = {int(name.split("@")[1]) for name in result["metrics"] if "ecall" in name}
    run, table = recomputed(record, loaded, cutoffs)
    found = []
    facts = {
        "queries": loaded.queries.height,
        "passages": loaded.passages.height,
        "queries_without_positive": sum(not positives for positives in loaded.qrels.values()),
        "synthetic": loaded.synthetic,
        "limited": loaded.limited,
    }
    for name, value in facts.items():
        if result[name] != value:  # type: ignore[literal-required]
            found.append(f"{name} is {result[name]} in the file, and {value} in the benchmark")  # type: ignore[literal-required]
    strangers = set(run.query_ids) - set(loaded.queries["question_id"].to_list())
    if strangers:
        found.append(f"the run has {len(strangers):,} queries that are not of the task, such as {min(strangers)!r}")
    known = set(loaded.passages["passage_id"].to_list())
    unknown = {name for names in run.passage_ids for name in names if name not in known}
    if unknown:
        found.append(f"the run has {len(unknown):,} passages that are not of the task, such as {min(unknown)!r}")
    longest = max((len(names) for names in run.passage_ids), default=0)
    if longest > result["top_k"]:
        found.append(f"the run has {longest:,} passages for a query, and the file says {result['top_k']:,} were kept")
    lacking = [name for name in result["metrics"] if name not in table.columns]
    if lacking:
        found.append(f"{lacking[0]} is in the file, and cannot be computed from the run")
    return found + mismatches(record, table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 where all is well, 1 where a file is refused, 2 where it could not be checked."""
    parser = argparse.ArgumentParser(
        prog="python -m leaderboard check",
        description="Compute the measures of result files anew from their runs, and refuse a file that differs.",
        epilog="example: python -m leaderboard check results/my-model/*.json --data m2kr-data",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="result files, with their runs beside them")
    parser.add_argument("--data", required=True, help="the benchmark they were evaluated on: a folder or a hub id")
    arguments = parser.parse_args(argv)
    refused = 0
    for path in arguments.files:
        found = check(path, arguments.data)
        refused += bool(found)
        print(f"{path}: {'refused' if found else 'its measures are those of its run'}")
        for problem in found:
            print(f"  {problem}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
