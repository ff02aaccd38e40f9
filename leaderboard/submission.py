"""``python -m leaderboard check FILE``: whether a submitted result is what its run and the benchmark give.

For a result of answering: whether it is what its predictions give, by the official metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.explorer import load_selection, mismatches, recomputed
from leaderboard.records import AnswerRecord, RunRecord, read_record
from leaderboard.validate import TOLERANCE, predictions_of
from m2kr.common.cli import option, parse
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from m2kr.dataset import TaskData


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of ``python -m leaderboard check``."""

    files: tuple[Path, ...] = option(
        "result files, with their runs or predictions", metavar="FILE", positional=True, several="list"
    )
    data: str = option("the benchmark they were evaluated on: a folder or a hub id")


def check(path: Path, data: str) -> list[str]:
    """Return what is wrong with a result file and its run or its predictions, as sentences; nothing where all is well.

    Every measure is computed anew, and of answers every interval; not BEM, which needs its judge. The times, the
    memory and the settings cannot be checked, nor whether answers are the reader's.

    Args:
        path: a result file; its run or its predictions stand beside it.
        data: the benchmark it was evaluated on.

    Raises:
        M2KRError: the file, the run or the predictions cannot be read or contradict each other, or the benchmark is
            not the one that was evaluated.
    """
    return _check(path, data)[1]


def _check(path: Path, data: str) -> tuple[str, list[str]]:
    """Return what was compared, and what is wrong."""
    record = read_record(path)
    result = record.result
    if isinstance(record, AnswerRecord) and not predictions_of(path).is_file():
        raise M2KRError(f"{predictions_of(path)} is not there; a result of answering is checked by its predictions.")
    loaded = load_selection(record.selection, data)
    if loaded.fingerprint != result["dataset"]:
        raise M2KRError(
            f"{path} is of the data {result['dataset']}, and {data} has {loaded.fingerprint} for {result['task']}, so "
            "it cannot be checked with it. Name the benchmark that was evaluated with --data."
        )
    facts = {"queries": loaded.queries.height, "synthetic": loaded.synthetic, "limited": loaded.limited}
    if isinstance(record, AnswerRecord):
        return "predictions (BEM is not computed)", [*_contradicted(record, facts), *_wrong_answers(record, loaded)]
    facts["passages"] = loaded.passages.height
    facts["queries_without_positive"] = sum(not positives for positives in loaded.qrels.values())
    if "queries_with_absent_positive" in result:  # older files lack it
        facts["queries_with_absent_positive"] = loaded.queries_with_absent_positive
    return "run", [*_contradicted(record, facts), *_wrong_run(record, loaded)]


def _contradicted(record: RunRecord | AnswerRecord, facts: dict[str, int]) -> list[str]:
    said = dict(record.result)
    return [
        f"{name} is {said[name]} in the file, and {value} in the benchmark"
        for name, value in facts.items()
        if said[name] != value
    ]


def _wrong_run(record: RunRecord, data: TaskData) -> list[str]:
    result, found = record.result, []
    cutoffs = {int(name.split("@")[1]) for name in result["metrics"] if "ecall" in name}
    run, table = recomputed(record, data, cutoffs)
    for what, ids, known in (
        ("queries", set(run.query_ids), data.queries["question_id"]),
        ("passages", {name for names in run.passage_ids for name in names}, data.passages["passage_id"]),
    ):
        if strangers := ids.difference(known):
            found.append(f"the run has {len(strangers):,} {what} that are not of the task, such as {min(strangers)!r}")
    longest = max((len(names) for names in run.passage_ids), default=0)
    if longest > result["top_k"]:
        found.append(f"the run has {longest:,} passages for a query, and the file says {result['top_k']:,} were kept")
    if lacking := [name for name in result["metrics"] if name not in table.columns]:
        found.append(f"{lacking[0]} is in the file, and cannot be computed from the run")
    return found + mismatches(record, table)


def _wrong_answers(record: AnswerRecord, data: TaskData) -> list[str]:
    from m2kr.answer.score import intervals, score_answers
    from m2kr.results.answer_record import read_predictions

    result, found = record.result, []
    answers = {
        str(line["question_id"]): str(line.get("answer")) for line in read_predictions(predictions_of(record.path))
    }
    if strangers := set(answers).difference(data.queries["question_id"]):
        return [f"{len(strangers):,} answers are to no question of the task, such as {min(strangers)!r}"]
    scores = score_answers(result["task"], data.queries, answers)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 where all is well, 1 where a file is refused, 2 where it could not be checked."""
    options = parse(
        CheckOptions,
        argv,
        prog="python -m leaderboard check",
        description="Compute the measures of result files anew from their runs, and refuse a file that differs.",
        epilog="examples: python -m leaderboard check results/my-model/*.json --data m2kr-data; those of answering are "
        "results/my-model/answers/*/*.json, with their predictions beside them",
    )
    refused = 0
    for path in options.files:
        if not path.is_file():
            raise M2KRError(f"{path} is no file. Name a result file, such as results/my-model/OKVQA.json.")
        compared, found = _check(path, options.data)
        refused += bool(found)
        print(f"{path}: {'refused' if found else f'its measures are those of its {compared}'}")
        for problem in found:
            print(f"  {problem}")
    return 1 if refused else 0
