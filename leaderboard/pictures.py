"""``python -m leaderboard pictures``: the README's two pictures of the demo's site, taken with Chromium.

Needs Playwright (of the extra ``dev``) and a Chromium: ``M2KR_CHROMIUM`` names one, else it is looked for in ``PATH``.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2kr.common.cli import option, parse
from m2kr.common.files import atomic
from m2kr.errors import M2KRError

WIDTH = 1300
"""Pixels of the window and the pictures: in narrower ones the last columns of the widest table are cut."""

MOST_BYTES = 200_000
"""A picture of more bytes is too heavy for the README."""

_PATIENCE = 120_000
# Milliseconds that a page may take on a machine with much to do.
_BELOW = 8
# Pixels that are shown below the last thing in a picture.


@dataclass(frozen=True, kw_only=True)
class PicturesOptions:
    """Options of ``python -m leaderboard pictures``."""

    site: Path = option("folder of the site", Path("demo/site"))
    out: Path = option("folder of the pictures", Path("docs/pictures"))
    explorer: str = option("page of the site whose queries are shown", "runs/preflmr-mini/queries-OKVQA.html")


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("M2KR_CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)


def take(site: Path, out: Path, explorer: str) -> list[Path]:
    """Write ``leaderboard.png`` and ``explorer.png``, in 256 colours, and return their paths.

    The first shows the table down to its second block, the other a query down to the second passage that was found.

    Args:
        site: folder of the site.
        out: folder of the pictures.
        explorer: page of queries, relative to the site.

    Raises:
        M2KRError: Playwright, a Chromium or a page is not there, or a picture is too heavy.
    """
    chromium = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise M2KRError("Playwright is not installed. Install it with pip install playwright.") from error
    if chromium is None:
        raise M2KRError("there is no Chromium on this machine. Install one, or name it in M2KR_CHROMIUM.")
    shown = {"leaderboard": ("index.html", ".board"), "explorer": (explorer, ".query[open] ol.passages > li")}
    for file, _ in shown.values():
        if not (site / file).is_file():
            raise M2KRError(f"{site / file} is not there. Make the site with make demo, or name another page.")
    written = []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        for name, (file, last) in shown.items():
            page.goto((site / file).absolute().as_uri(), timeout=_PATIENCE)
            box = page.locator(last).nth(1).bounding_box()
            if box is None:
                raise M2KRError(f"{site / file} shows fewer than two blocks or passages. Name another page.")
            height = int(box["y"] + box["height"]) + _BELOW
            screenshot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
            written.append(_write(out / f"{name}.png", screenshot))
        browser.close()
    return written


def _write(path: Path, screenshot: bytes) -> Path:
    from PIL import Image

    file = io.BytesIO()
    picture: Image.Image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    # Median cut alone has no colour for the few red letters of a failure.
    picture = picture.quantize(256, kmeans=8, dither=Image.Dither.NONE)
    picture.save(file, format="PNG", optimize=True)
    if len(file.getvalue()) > MOST_BYTES:
        raise M2KRError(f"{path} would have {len(file.getvalue()):,} bytes, more than {MOST_BYTES:,}.")
    with atomic(path) as written:
        written.write(file.getvalue())
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        PicturesOptions,
        argv,
        prog="python -m leaderboard pictures",
        description="Take the README's pictures of a site: the leaderboard and the query explorer.",
        epilog="example: make demo && python -m leaderboard pictures",
    )
    for path in take(options.site, options.out, options.explorer):
        print(path)
    return 0
