"""Judge reader-mini: ``python -m baselines.minis.reader_judge --work runs/mini``.

It answers the test questions of another world than it was trained on: without passages, from those that BM25, dpr-mini
and preflmr-mini find, and from the positive ones. The table goes to ``WORK/judged-reader/scores.md``, and the reader's
card beside the reader.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.minis import folder, train
from baselines.minis.reader import NAME
from m2kr.answer.score import ANSWER_TASKS
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from m2kr.answer.task import AnswerResult

SEED, SCALE = 5, 1.0
"""The world to judge on. Not that of ``make demo``, on whose questions early attempts were looked at."""

RETRIEVERS = ("bm25", "dpr-mini", "preflmr-mini")
ROWS = ("no retrieval", *RETRIEVERS, "oracle")
K = 5
BATCH_SIZE = 32


def judge(work: Path | None, data: Path, images: Path, results: Path, *, quiet: bool = False) -> list[AnswerResult]:
    """Retrieve and answer what is not there yet; return the results of answering.

    Args:
        work: folder of `baselines.minis.reader`; None for the committed models.
        data: the benchmark.
        images: root of its pictures.
        results: where results are and go.
        quiet: no progress.
    """
    from m2kr.answer.task import main as answer
    from m2kr.answer.task import read_answer_results
    from m2kr.evaluate.task import main as evaluate

    asked = ["--data", str(data), "--tasks", ",".join(ANSWER_TASKS), "--out", str(results), "--quiet"]
    shown = ["--images", str(images)]
    reader = work / "minis" / NAME if work else folder(NAME)
    ways = {"no retrieval": ["--no-retrieval"], "oracle": ["--oracle"]}
    with redirect_stdout(io.StringIO()):  # their tables
        for name in RETRIEVERS:
            own = work / "minis" / name if work else None
            checkpoint = ["--checkpoint", str(own)] if own and own.is_dir() else []
            eyes = ["--ignore-images"] if name == "bm25" else shown
            evaluate(["--model", name, *checkpoint, *asked, *eyes])
            say(f"{name}: passages found", quiet=quiet)
        for name in ROWS:
            way = ways.get(name, ["--run-dir", str(results / name)])
            answer(["--reader", str(reader), *way, "--k", str(K), "--batch-size", str(BATCH_SIZE), *asked, *shown])
            say(f"{name}: answered", quiet=quiet)
    return [result for result in read_answer_results(results) if result["reader"] == NAME]


def report(results: Sequence[AnswerResult]) -> str:
    """Return the results as a table in Markdown: in per cent, with 95 % intervals."""
    cells: dict[str, dict[str, str]] = {name: {} for name in ROWS}
    heads: dict[str, str] = {}
    for result in results:
        named: Mapping[str, str] = {"none": "no retrieval", "oracle": "oracle"}
        name = named.get(result["source"], result["retriever"] or "")
        measure = result["headline"][0]
        low, high = result["intervals"][measure]
        heads[result["task"]] = f"{result['task']} {measure.replace('_harmonic', ', harmonic')}"
        cells[name][result["task"]] = f"{100 * result['metrics'][measure]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    lines = [["passages from", *heads.values()], ["---", *["---:"] * len(heads)]]
    lines += [[name, *(own.get(task, "") for task in heads)] for name, own in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.minis.reader_judge",
        description="Let reader-mini answer the questions of another made-up world than its own, from passages of "
        "several retrievers, and write its card.",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of baselines.minis.reader")
    parser.add_argument("--committed", action="store_true", help="judge the models of the repository instead")
    parser.add_argument("--data", type=Path, help="a benchmark that is built; default: one is made, of --seed")
    parser.add_argument("--images", type=Path, help="its pictures")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the world; default {SEED}")
    parser.add_argument("--scale", type=float, default=SCALE, help=f"of the world; default {SCALE:g}")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    from m2kr.common.files import atomic

    if arguments.seed == train.SEED:
        raise M2KRError(f"--seed {arguments.seed} is the world that the models were trained on: take another.")
    if bool(arguments.data) != bool(arguments.images):
        raise M2KRError("--data and --images go together: the benchmark that is read, and its pictures.")
    if not arguments.committed and not (arguments.work / "minis" / NAME).is_dir():
        raise M2KRError(
            f"{arguments.work} holds no trained reader: run python -m baselines.minis.reader --work {arguments.work} "
            "first, or judge that of the repository with --committed."
        )
    out = arguments.work / ("judged-reader-committed" if arguments.committed else "judged-reader")
    data, images = arguments.data, arguments.images
    if data is None:
        data, _ = train.make_data(out / "world", arguments.seed, arguments.scale, quiet=True)
        images = out / "world" / "raw"
    work = None if arguments.committed else arguments.work
    text = report(judge(work, data, images, out / "results", quiet=arguments.quiet))
    with atomic(out / "scores.md", "w") as file:
        file.write(text + "\n")
    if work:
        from baselines.minis.cards import write_reader_card

        write_reader_card(work, text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
