"""Score a run made elsewhere: ``python -m m2kr.score --data m2kr-data --task OKVQA --run FILE.trec --name my-model``.

The run is a TREC file (``query Q0 passage rank score tag``), gzipped or not, as pyserini, ranx and others write it. Its
result file says that how it was made is not known, and the leaderboard ranks it apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.common.cli import option, parse
from m2kr.common.options import DataOption, QuietOption, RerunOption, SplitOption
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.results.record import Result

_UNKNOWN = "unknown"
_EXAMPLES = """examples:
  python -m m2kr.score --data m2kr-data --task OKVQA --run run.trec --name my-model
  python -m m2kr.score --data m2kr-data --task EVQA --split valid --run run.trec.gz --name my-model
"""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(DataOption, SplitOption, RerunOption, QuietOption):
    """Options of the command."""

    run: Path = option("TREC run, gzipped where it ends with .gz", metavar="FILE")
    name: str = option("what the model is called in results", metavar="MODEL")
    task: str = option("that the run is of")
    top_k: int = option("passages kept for each query", 500, least=1)
    out: Path = option("folder of results", Path("results"))


def score_run(
    path: Path, data: TaskData, name: str, out: Path, *, top_k: int = 500, rerun: bool = False, quiet: bool = False
) -> Result:
    """Score a run made elsewhere, and write ``<out>/<TASK>.json`` and ``<out>/<TASK>.run.trec.gz``.

    A query that the run lacks scores 0 and is counted. The order is that of the scores; where the rank column says
    another, that is said.

    Args:
        path: the run, a TREC file.
        data: the split it is of.
        name: of the model.
        out: folder of the model's results.
        top_k: passages kept for each query, those of the highest scores; equal scores by id, the larger first.
        rerun: do it again where it was done before.
        quiet: no progress, no notices.

    Returns:
        The result, as written.

    Raises:
        M2KRError: the run cannot be read, holds a line that is wrong or no line at all, is one of the files to be
            written, or a result with other settings is in the way.
    """
    from m2kr.common.files import digest, sha256_of
    from m2kr.common.measure import Phases, environment
    from m2kr.common.work import Workplace
    from m2kr.metrics import score
    from m2kr.results.record import (
        Result,
        data_settings,
        finished_record,
        read_result,
        result_name,
        retrieval_facts,
        say_absent_positives,
        write_record,
    )
    from m2kr.results.run import Run

    if not name.strip() or not name.isprintable():
        raise M2KRError(f"a model cannot be called {name!r}.")
    if not path.is_file():
        raise M2KRError(f"the run {path} is no file.")
    stem = result_name(data)
    result_path, run_path = out / f"{stem}.json", out / f"{stem}.run.trec.gz"
    if run_path.exists() and run_path.samefile(path):
        raise M2KRError(f"{path} is where the run of this result is written. Name another --out, or move the run.")
    source = sha256_of(path)
    key = digest({**data_settings(data), "model": name, "run": source, "top_k": top_k, "search": "elsewhere"})
    work = Workplace(out, stem, key)
    finished = finished_record(result_path, read_result, key, rerun=rerun)
    if finished is not None and run_path.is_file() and sha256_of(run_path) == finished["run_sha256"]:
        work.tidy()
        say(f"{data.task.key}: finished before, see {result_path}", quiet=quiet)
        return finished
    say_absent_positives(data, quiet=quiet)
    phases = Phases()
    with phases.measured("read"):
        queries, passages = set(data.queries["question_id"]), set(data.passages["passage_id"])
        run = Run.read_trec(
            path, queries=queries, passages=passages, finite=True, told=lambda line: say(line, quiet=quiet)
        )
    if not run.query_ids:
        raise M2KRError(f"{path} holds no line of a run.")
    found = dict(zip(run.query_ids, zip(run.passage_ids, run.scores, strict=True), strict=True))
    asked = [query for query in data.queries["question_id"] if query in found]
    kept = Run(asked, [found[query][0][:top_k] for query in asked], [found[query][1][:top_k] for query in asked])
    if lacking := data.queries.height - len(asked):
        say(f"{data.task.key}: {path} lacks {lacking:,} of {data.queries.height:,} queries, which score 0", quiet=quiet)
    with phases.measured("score"):
        answers = data.answers
        known = None if answers is None else dict(data.passages.select("passage_id", "passage_content").iter_rows())
        metrics = score(kept, data.qrels, answers=answers, passages=known, quiet=quiet)
    data.check_unchanged()
    with work.locked():
        finished_record(result_path, read_result, key, rerun=rerun)  # raises where another came meanwhile
        with phases.measured("write"):
            kept.write_trec(run_path, name, quiet=quiet)
        result: Result = write_record(
            result_path,
            Result,
            {
                **environment("cpu"),  # versions and commit are those that scored it
                **retrieval_facts(data, metrics, sha256_of(run_path), phases),
                "model": name,
                "model_settings": {},
                "ignored_inputs": [],
                "instructions": None,
                "search": "elsewhere",
                "top_k": max(map(len, kept.passage_ids)),
                "device": _UNKNOWN,
                "dtype": _UNKNOWN,
                "store_dtype": _UNKNOWN,
                "quantisation": None,
                "batch_effect": None,
                "bad_images": None,
                "passage_images": _UNKNOWN if data.has_passage_images else None,
                "pictures": None,
                "image_source": None,
                "batch_size": None,
                "hardware": _UNKNOWN,
                "key": key,
                "queries_without_passages": lacking,
                "source_run": {"file": path.name, "sha256": source},
            },
        )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        ScoreOptions,
        argv,
        prog="python -m m2kr.score",
        description="Score a run made elsewhere, and write it and a result file that says so.",
        epilog=_EXAMPLES,
    )
    from m2kr.common.files import safe_name
    from m2kr.dataset import load_task
    from m2kr.metrics.kernels import compiled_ahead
    from m2kr.results.table import table

    with compiled_ahead():
        result = score_run(
            options.run,
            load_task(options.task, options.data, options.split, trust=options.trust),
            options.name,
            options.out / safe_name(options.name),
            top_k=options.top_k,
            rerun=options.rerun,
            quiet=options.quiet,
        )
    print(table([result]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
