"""``python -m leaderboard check FILE``: whether a submitted result is what its run and the benchmark give.

For a result of answering: whether it is what its predictions give, by the official metrics.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.explorer import mismatches, recomputed
from leaderboard.records import Record
from leaderboard.validate import TOLERANCE, predictions_of, read_valid_answer, read_valid_result
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.results.answer_record import AnswerResult
    from m2kr.results.record import Result


def check(path: Path, data: str) -> list[str]:
    """Return what is wrong with a result file and its run, as sentences; nothing where all is well.

    Every measure is computed anew from the run. The times, the memory and the settings cannot be checked.

    Args:
        path: a result file; its run stands beside it.
        data: the benchmark it was evaluated on.

    Raises:
        M2KRError: the file or the run cannot be read, or the benchmark is not the one that was evaluated.
    """
    record = Record(path, read_valid_result(path), path.parent.name)
    result = record.result
    loaded = _loaded(path, result, data)
    cutoffs = {int(name.split("@")[1]) for name in result["metrics"] if "ecall" in name}
    run, table = recomputed(record, loaded, cutoffs)
    found = []
    without = sum(not positives for positives in loaded.qrels.values())
    found += _contradicted(result, loaded, passages=loaded.passages.height, queries_without_positive=without)
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


def check_answers(path: Path, data: str) -> list[str]:
    """Return what is wrong with a result file of answering and its predictions, as sentences.

    Every measure and interval but those of BEM, which needs its judge, is computed anew from the answers. That the
    answers are the reader's cannot be checked.

    Args:
        path: a result file; its predictions stand beside it.
        data: the benchmark whose questions were answered.

    Raises:
        M2KRError: the file or the predictions cannot be read or contradict each other, or the benchmark is not the one
            that was evaluated.
    """
    from m2kr.answer.score import intervals, score_answers
    from m2kr.results.answer_record import read_predictions

    result = read_valid_answer(path)
    predictions = predictions_of(path)
    if not predictions.is_file():
        raise M2KRError(f"{predictions} is not there; a result of answering is checked by its predictions.")
    loaded = _loaded(path, result, data)
    found = _contradicted(result, loaded)
    answers = {str(line.get("question_id")): str(line.get("answer")) for line in read_predictions(predictions)}
    strangers = set(answers) - set(loaded.queries["question_id"].to_list())
    if strangers:
        return [*found, f"{len(strangers):,} answers are to no question of the task, such as {min(strangers)!r}"]
    scores = score_answers(result["task"], loaded.queries, answers)
    ends = intervals(scores)
    for name, value in scores.metrics.items():
        said = [result["metrics"].get(name, math.nan), *result["intervals"].get(name, [math.nan] * 2)]
        computed = [value, *ends[name]]
        if not all(abs(one - other) <= TOLERANCE for one, other in zip(said, computed, strict=True)):
            texts = [f"{one:.6f} [{low:.6f}, {high:.6f}]" for one, low, high in (said, computed)]
            found.append(f"{name} is {texts[0]} in the file, and {texts[1]} computed from the answers")
    if lacking := [name for name in result["metrics"] if name not in scores.metrics and name != "BEM"]:
        found.append(f"{lacking[0]} is in the file, and cannot be computed from the answers")
    return found


def _loaded(path: Path, result: Result | AnswerResult, data: str) -> TaskData:
    """Return the queries and passages that a result is of."""
    from m2kr.dataset import load_task, nano_subset

    limit = result["queries"] if result["limited"] else None
    loaded = load_task(result["task"], data, result["split"], limit=limit)
    if loaded.fingerprint != result["dataset"]:
        raise M2KRError(
            f"{path} is of the data {result['dataset']}, and {data} has {loaded.fingerprint} for {result['task']}, so "
            "it cannot be checked with it. Name the benchmark that was evaluated with --data."
        )
    return nano_subset(loaded, seed=result["seed"] or 0) if result["nano"] else loaded


def _contradicted(result: Result | AnswerResult, loaded: TaskData, **others: int) -> list[str]:
    facts = {"queries": loaded.queries.height, "synthetic": loaded.synthetic, "limited": loaded.limited, **others}
    said = dict(result)
    return [
        f"{name} is {said[name]} in the file, and {value} in the benchmark"
        for name, value in facts.items()
        if said[name] != value
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 where all is well, 1 where a file is refused, 2 where it could not be checked."""
    parser = argparse.ArgumentParser(
        prog="python -m leaderboard check",
        description="Compute the measures of result files anew from their runs, and refuse a file that differs.",
        epilog="examples: python -m leaderboard check results/my-model/*.json --data m2kr-data; those of answering are "
        "results/my-model/answers/*/*.json, with their predictions beside them",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="result files, with their runs or predictions"
    )
    parser.add_argument("--data", required=True, help="the benchmark they were evaluated on: a folder or a hub id")
    arguments = parser.parse_args(argv)
    refused = 0
    for path in arguments.files:
        if not path.is_file():
            raise M2KRError(f"{path} is no file. Name a result file, such as results/my-model/OKVQA.json.")
        answers = path.absolute().parts[-3:-2] == ("answers",)
        found = check_answers(path, arguments.data) if answers else check(path, arguments.data)
        refused += bool(found)
        fine = f"its measures are those of its {'predictions (BEM is not computed)' if answers else 'run'}"
        print(f"{path}: {'refused' if found else fine}")
        for problem in found:
            print(f"  {problem}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
