"""The command ``python -m m2kr.results``, which prints the result files of a folder as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2kr.common.cli import option, parse
from m2kr.errors import M2KRError, run_command
from m2kr.results.answer_record import read_answer_results
from m2kr.results.record import read_results
from m2kr.results.table import answer_table, table


@dataclass(frozen=True, kw_only=True)
class ResultsOptions:
    """Options of the command."""

    folder: Path = option("folder of results", Path("results"), positional=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the results of a folder as one table, those of answering as another."""
    folder = parse(ResultsOptions, argv, prog="python -m m2kr.results", description="Print result files.").folder
    results, answers = read_results(folder), read_answer_results(folder)
    if not results and not answers:
        raise M2KRError(f"{folder} holds no result files. Make some with python -m m2kr.evaluate.")
    print("\n\n".join([*([table(results)] if results else []), *([answer_table(answers)] if answers else [])]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
