"""``python -m leaderboard readme``: the table in ``README.md``, between its markers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboard.boards import run_boards
from leaderboard.figures import run_figures
from leaderboard.marks import usual_data
from leaderboard.measures import MEASURES, short
from leaderboard.published import BLOCKS, read_published
from leaderboard.records import read_records
from m2kr.common.cli import option, parse
from m2kr.common.files import atomic
from m2kr.errors import M2KRError

ROOT = Path(__file__).resolve().parents[1]
"""The checkout, with ``README.md``."""

SUBMITTED = ROOT / "leaderboard" / "results"
"""Result files that are kept with the code, with their runs."""

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"

_SHOWN = ("official",)
# Published blocks in the README; the site has all.


@dataclass(frozen=True, kw_only=True)
class ReadmeOptions:
    """Options of ``python -m leaderboard readme``."""

    results: Path | None = option("folder of results to add; default: leaderboard/results, where it is there", None)
    readme: Path = option("the file; default: that of the checkout", ROOT / "README.md")
    check: bool = option("change nothing; fail if the table is stale", False)


def markdown(results: Path | None = None) -> str:
    """Return a Markdown table: runs on the whole benchmark, and the current official figures.

    Args:
        results: folder of result files; those that are set apart by a mark are left to the site.

    Raises:
        M2KRError: a result file is refused.
    """
    runs = read_records(results)[0] if results is not None else []
    reference = usual_data(record.result for record in runs)
    runs = [record.marked(reference) for record in runs]
    published = read_published()
    lines = [
        "| model | " + " | ".join(f"{task} {short(metric)}" for task, metric in MEASURES) + " | from |",
        "| --- |" + " ---: |" * len(MEASURES) + " --- |",
    ]
    for board in run_boards(runs, run_figures(runs, published)):
        if board.key not in ("run", *_SHOWN):
            continue
        sources = published.loc[published["block"] == board.key, "source"]
        origin = "a run" if board.own else "; ".join(sources.unique())
        for row in board.rows:
            cells = ["–" if cell is None else f"{cell.value:.1f}" for cell in row.cells]
            lines.append(f"| {_cell(row.name)} | {' | '.join(cells)} | {origin} |")
    return "\n".join(lines)


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
    options = parse(
        ReadmeOptions,
        argv,
        prog="python -m leaderboard readme",
        description="Write the leaderboard's table into README.md, between its markers.",
        epilog="The table has the runs that no mark sets apart, and these published figures: "
        + ", ".join(BLOCKS[key].title for key in _SHOWN),
    )
    if not options.readme.is_file():
        raise M2KRError(f"{options.readme} is no file. Name the README with --readme.")
    text = options.readme.read_text(encoding="utf-8")
    new = updated(text, markdown(options.results or (SUBMITTED if SUBMITTED.is_dir() else None)))
    if new == text:
        return 0
    if options.check:
        print(f"{options.readme}: the leaderboard's table is stale; run python -m leaderboard readme")
        return 1
    with atomic(options.readme, "w") as file:
        file.write(new)
    return 0
