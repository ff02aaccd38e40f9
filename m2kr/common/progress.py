"""Progress on a terminal: a bar with rate and time left; nothing where nobody watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress(
    total: int | None, description: str, *, unit: str = "rows", quiet: bool = False, scale: bool = True
) -> tqdm[Any]:
    """Return a tqdm bar on standard error, disabled by ``quiet`` or when standard error is no terminal.

    Args:
        total: number of ``unit`` to come; None where it is not known.
        description: what is being done, a few words.
        unit: what is counted. "B" counts bytes.
        quiet: show nothing.
        scale: print 12.3k for 12,300.
    """
    from tqdm import tqdm  # 0.05 s, and `--help` never needs it

    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=scale,
        disable=quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    )


def say(message: str, *, quiet: bool = False) -> None:
    """Print one line about the work itself (not its result) on standard error."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)
