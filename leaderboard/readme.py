"""``python -m leaderboard readme``: the table in ``README.md``, between its markers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from leaderboard.boards import MEASURES, Board, boards, long_table, short
from leaderboard.published import BLOCKS, read_published
from leaderboard.records import read_records, usual_data, with_marks
from m2kr.errors import M2KRError, run_command

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, with ``README.md``."""

SUBMITTED = ROOT / "leaderboard" / "results"
"""Result files that are kept with the code, with their runs."""

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"

_SHOWN = ("official",)
# Published blocks in the README; the site has all.


def markdown(results: Path | None = None) -> str:
    """Return a Markdown table: runs on the whole benchmark, and the current official figures.

    Args:
        results: folder of result files; those that are set apart by a mark are left to the site.

    Raises:
        M2KRError: a result file is refused.
    """
    records = read_records(results) if results is not None else []
    reference = usual_data(records)
    marked = [with_marks(record, reference) for record in records]
    found = boards(marked, long_table(marked, read_published()))
    shown = [board for board in found if board.key == "run" or board.key in _SHOWN]
    lines = [
        "| model | " + " | ".join(f"{task} {short(metric)}" for task, metric in MEASURES) + " | from |",
        "| --- |" + " ---: |" * len(MEASURES) + " --- |",
    ]
    for board in shown:
        for row in board.rows:
            cells = ["–" if cell is None else f"{cell.value:.1f}" for cell in row.cells]
            lines.append(f"| {_cell(row.model)} | {' | '.join(cells)} | {_origin(board)} |")
    return "\n".join(lines)


def _origin(board: Board) -> str:
    if board.own:
        return "a run"
    sources = read_published()
    return "; ".join(dict.fromkeys(sources.loc[sources["block"] == board.key, "source"]))


def _cell(text: str) -> str:
    """Return a text that is no Markdown or HTML."""
    for character, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;")):
        text = text.replace(character, instead)
    return "".join(f"\\{character}" if character in "\\`*[]" else character for character in text)


def updated(text: str, table: str) -> str:
    """Return a README with the table between its markers.

    Raises:
        M2KRError: the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise M2KRError(f"README.md needs the lines {BEGIN} and {END}, once each, where the table is to stand.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 1 where ``--check`` finds the table stale."""
    parser = argparse.ArgumentParser(
        prog="python -m leaderboard readme",
        description="Write the leaderboard's table into README.md, between its markers.",
        epilog="The table has the runs that no mark sets apart, and these published figures: "
        + ", ".join(BLOCKS[key].title for key in _SHOWN),
    )
    parser.add_argument(
        "--results", type=Path, help="folder of results to add; default: leaderboard/results, where it is there"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="default: that of the checkout")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the table is stale")
    arguments = parser.parse_args(argv)
    if not arguments.readme.is_file():
        raise M2KRError(f"{arguments.readme} is no file. Name the README with --readme.")
    results = arguments.results or (SUBMITTED if SUBMITTED.is_dir() else None)
    text = arguments.readme.read_text(encoding="utf-8")
    new = updated(text, markdown(results))
    if arguments.check:
        if new != text:
            print(f"{arguments.readme}: the leaderboard's table is stale; run python -m leaderboard readme")
            return 1
        return 0
    if new != text:
        arguments.readme.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
