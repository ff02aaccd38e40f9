"""``python -m leaderboard``: build the site, verify a model, check a submission, write the README's table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

_EXAMPLES = """examples:
  python -m leaderboard --results results --out site
  python -m leaderboard --results results --out site --data m2kr-data --images raw
  python -m leaderboard verify --model PreFLMR_ViT-L
  python -m leaderboard check results/my-model/OKVQA.json --data m2kr-data
  python -m leaderboard readme --check
"""


def _build(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m leaderboard",
        description="Build the leaderboard's site: published figures and result files, as static pages. "
        "Other commands: verify, check, readme; each has its own --help.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results; default: results")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder of the site; default: site")
    parser.add_argument("--data", help="the benchmark that was evaluated: checks runs, adds significance and queries")
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="pictures of the queries; with --data"
    )
    parser.add_argument("--queries", type=int, default=40, metavar="N", help="queries shown of each run; default 40")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notices")
    arguments = parser.parse_args(argv)
    if arguments.queries < 1:
        raise M2KRError(f"--queries is {arguments.queries}; it has to be 1 or more.")
    if arguments.images and arguments.data is None:
        raise M2KRError("--images is for the queries that --data shows. Pass --data too.")
    from leaderboard.site import build
    from m2kr.images.roots import parse_roots

    made = build(
        arguments.results,
        arguments.out,
        data=arguments.data,
        images=parse_roots(arguments.images) if arguments.images else None,
        shown=arguments.queries,
        quiet=arguments.quiet,
    )
    for path, why in made.absent.items():
        say(f"{path}: not looked into, {why}", quiet=arguments.quiet)
    say(
        f"{arguments.out / 'index.html'}: {made.models} models of yours, {made.pages} pages, beside the published "
        "figures",
        quiet=arguments.quiet,
    )
    return 0


def _verify(argv: Sequence[str] | None) -> int:
    from leaderboard.verify import main

    return main(argv)


def _check(argv: Sequence[str] | None) -> int:
    from leaderboard.submission import main

    return main(argv)


def _readme(argv: Sequence[str] | None) -> int:
    from leaderboard.readme import main

    return main(argv)


COMMANDS: dict[str, Callable[[Sequence[str] | None], int]] = {"verify": _verify, "check": _check, "readme": _readme}
"""Commands beside the building of the site."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    import sys

    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    return _build(given)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
