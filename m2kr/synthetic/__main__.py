"""Command line: ``python -m m2kr.synthetic --out raw``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from m2kr.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Write a made-up world as raw releases; return the exit code."""
    from m2kr.synthetic.write import RELEASES, generate

    parser = argparse.ArgumentParser(
        prog="python -m m2kr.synthetic",
        description="Write a made-up world in the native formats of the raw releases, to try and test a benchmark with."
        " Running it again goes on where it stopped; a folder with other data is never touched.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ROOT", help="gets one folder for each release")
    parser.add_argument("--scale", type=float, default=1.0, help="1: about 500 articles and 1,900 pictures (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    parser.add_argument(
        "--releases",
        default=",".join(RELEASES),
        metavar="A,B",
        help="names with commas between; what they refer to is written too (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    options = parser.parse_args(argv)
    names = [name.strip() for name in options.releases.split(",") if name.strip()]
    generate(options.out, scale=options.scale, seed=options.seed, releases=names, quiet=options.quiet)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
