"""``python -m leaderboard``: build the site; or one of the other commands, each in a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from m2kr.common.cli import option, parse
from m2kr.common.options import ImagesOption, QuietOption
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

COMMANDS = {
    "reproduce": "reproduce",
    "verify": "verify",
    "check": "submission",
    "readme": "readme",
    "pictures": "pictures",
}
"""Commands beside the building of the site, and their modules."""

_EXAMPLES = """examples:
  python -m leaderboard --results results --out site
  python -m leaderboard --results results --out site --data m2kr-data --images raw
  python -m leaderboard reproduce --model preflmr-vit-b --tasks IGLUE
  python -m leaderboard verify --model PreFLMR_ViT-L
  python -m leaderboard check results/my-model/OKVQA.json --data m2kr-data
  python -m leaderboard readme --check
"""


@dataclass(frozen=True, kw_only=True)
class SiteOptions(ImagesOption, QuietOption):
    """Options of ``python -m leaderboard``."""

    results: Path = option("folder of results", Path("results"))
    out: Path = option("folder of the site", Path("site"))
    data: str | None = option("the benchmark that was evaluated: checks runs, adds significance and queries", None)
    queries: int = option("queries shown of each run", 40, least=1, metavar="N")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMMANDS:
        exit_code: int = import_module(f"leaderboard.{COMMANDS[given[0]]}").main(given[1:])
        return exit_code
    options = parse(
        SiteOptions,
        given,
        prog="python -m leaderboard",
        description="Build the leaderboard's site: published figures and result files, as static pages. "
        f"Other commands: {', '.join(COMMANDS)}; each has its own --help.",
        epilog=_EXAMPLES,
    )
    if options.images and options.data is None:
        raise M2KRError("--images is for the queries that --data shows. Pass --data too.")
    from leaderboard.site import build
    from m2kr.images.roots import parse_roots

    made = build(
        options.results,
        options.out,
        data=options.data,
        images=parse_roots(options.images) if options.images else None,
        shown=options.queries,
        quiet=options.quiet,
    )
    for path, why in made.absent.items():
        say(f"{path}: not looked into, {why}", quiet=options.quiet)
    index = options.out / "index.html"
    counts = f"{made.models} models of yours, {made.pages} pages, beside the published figures"
    say(f"{index}: {counts}", quiet=options.quiet)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
