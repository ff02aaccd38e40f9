"""Command line: ``python -m m2kr.synthetic --out raw``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2kr.common.cli import option, parse
from m2kr.errors import run_command
from m2kr.synthetic.write import PASSAGE_IMAGES, RELEASES, generate


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """Options of ``python -m m2kr.synthetic``."""

    out: Path = option("gets one folder for each release", metavar="ROOT")
    scale: float = option("1: about 500 articles and 1,900 pictures", 1.0)
    seed: int = option("which world", 0)
    releases: str = option(
        "names with commas between; what they refer to is written too", ",".join(RELEASES), metavar="A,B"
    )
    passage_images: bool = option(
        "write pictures for passages too, with lists that m2kr.images attach brings to a built benchmark", False
    )
    quiet: bool = option("say nothing but errors", False)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a made-up world as raw releases; return the exit code."""
    options = parse(
        SyntheticOptions,
        argv,
        prog="python -m m2kr.synthetic",
        description="Write a made-up world in the native formats of the raw releases, to try and test a benchmark with."
        " Running it again goes on where it stopped; a folder with other data is never touched.",
    )
    names = [name.strip() for name in options.releases.split(",") if name.strip()]
    names += [PASSAGE_IMAGES] if options.passage_images else []
    generate(options.out, scale=options.scale, seed=options.seed, releases=names, quiet=options.quiet)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
