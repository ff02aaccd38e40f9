"""What ranx measures, and its kernels compiled while others work.

numba compiles a kernel of ranx at its first use after an installation, for seconds, and keeps it in the folder of ranx,
in ``NUMBA_CACHE_DIR`` where that is set, or in the user's cache. `compiled_ahead` has a process beside a command fill
that: here, compiling would keep the interpreter from what is encoded meanwhile.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt

from m2kr.metrics.measures import MEASURES

_PATIENCE = 60.0
# Seconds for which scoring waits for the other process: some times what compiling takes.
_RUN_TYPE = b"readonly array(float64, 3d, A)"
# What numba calls the runs that `measured` gives to ranx.

_compiling: subprocess.Popen[bytes] | None = None
_makeshift: str | None = None


def measured(
    retrieved: Sequence[Sequence[str]], relevant: Sequence[Sequence[Sequence[str]]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return measures, as ranx calls them, of what was retrieved; 0 where nothing was retrieved or is relevant.

    Args:
        retrieved: for each of n queries ids of passages, best first. Of one that stands twice the first place counts.
        relevant: judgements of the same queries: each has, for each of n queries, ids of relevant passages.
        names: measures with a cut-off, such as ``hit_rate@5``, two or more.

    Returns:
        For each name the values, shape (judgements, n).
    """
    values = {name: np.zeros((len(relevant), len(retrieved))) for name in names}
    depth = max(map(len, retrieved), default=0)
    judged: dict[int, list[tuple[int, int]]] = {}
    ranks: dict[tuple[int, int], list[int]] = {}
    for query, (found, *wanted) in enumerate(zip(retrieved, *relevant, strict=True)):
        if not len(found) or not any(map(len, wanted)):
            continue
        places = _places(found)
        for judgement, ids in enumerate(wanted):
            if len(ids):
                distinct = set(ids)
                hits = sorted(places[passage] for passage in distinct if passage in places)
                key = (judgement, query)
                ranks[key] = [*hits, *range(depth, depth + len(distinct) - len(hits))]
                judged.setdefault(_power_of_two(len(distinct)), []).append(key)
    if not judged:
        return values
    ranx = _ranx()
    # ranx orders ties arbitrarily, so it is given ranks, which hold none, in place of scores: those of a run of `depth`
    # passages for all, since what a shorter run lacks is relevant to none. And it is given arrays: of dicts it makes
    # typed ones of strings, which takes 4 s for 5,046 queries and 20 s more to compile, and lists of arrays take twice
    # as long to compile as these.
    best_first = np.column_stack([np.arange(depth), np.arange(depth, 0, -1)]).astype(np.float64)
    for width, keys in judged.items():
        qrels = np.zeros((len(keys), width, 2))
        qrels[:, :, 0] = -1  # fills up, of relevance 0, which ranx leaves out
        for row, key in enumerate(keys):
            own = ranks[key]
            qrels[row, : len(own), 0], qrels[row, : len(own), 1] = own, 1
        # Of one query, the array would be contiguous: another type, for which numba would compile everything again.
        runs = np.broadcast_to(best_first, (max(len(keys), 2), depth, 2))
        with warnings.catch_warnings():
            # numba remarks on a cast inside ranx while it compiles; there is nothing a user could do about it.
            warnings.simplefilter("ignore")
            found_values = ranx.evaluate(qrels, runs, list(names), return_mean=False)
        judgements, queries = zip(*keys, strict=True)
        for name in names:
            values[name][judgements, queries] = found_values[name]
    return values


def _places(found: Sequence[str]) -> dict[str, int]:
    """Return the rank of each passage, from 0."""
    places = dict(zip(found, range(len(found)), strict=True))
    return places if len(places) == len(found) else dict(zip(dict.fromkeys(found), range(len(places)), strict=True))


def _power_of_two(count: int) -> int:
    """Return the least power of two that is no less."""
    return 1 << (count - 1).bit_length()


def _ranx() -> Any:
    """Import ranx, and wait for a process that compiles its kernels."""
    try:
        import ranx  # 1.5 s, and only this needs it
    except RuntimeError:  # numba found no folder that can be written
        import numba

        numba.config.CACHE_DIR = _makeshift_folder()  # type: ignore[attr-defined]
        import ranx
    if _compiling is not None:
        with suppress(subprocess.TimeoutExpired):
            _compiling.wait(_PATIENCE)
    return ranx


def _makeshift_folder() -> str:
    """Return a folder for the kernels of this process and the one beside it, which goes with this one."""
    global _makeshift
    if _makeshift is None:
        _makeshift = mkdtemp(prefix="m2kr-")
        atexit.register(rmtree, _makeshift, ignore_errors=True)
    return _makeshift


@contextmanager
def compiled_ahead() -> Iterator[None]:
    """Have the kernels compiled by another process while the block runs, unless they are there already.

    `measured` waits for it. It prints nothing, ends with this one, however that ends, and at the end of the block.
    """
    global _compiling
    if _compiling is not None or _compiled():
        yield
        return
    with suppress(OSError):  # no process, no folder: then scoring compiles them itself
        # In a session of its own, for the Ctrl-C of a terminal is for this one.
        _compiling = subprocess.Popen(
            [sys.executable, "-m", __name__, _makeshift_folder()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield
    finally:
        if _compiling is not None:
            _compiling.kill()
            _compiling.communicate()
            _compiling = None


def _compiled() -> bool:
    """Return whether numba has kept all kernels, as far as the names and types in its index files tell."""
    kept = set()
    numba = version("numba").encode()
    for folder in _folders():
        for path in folder.glob(f"*_parallel-*.py{sys.version_info.major}{sys.version_info.minor}.nbi"):
            with suppress(OSError):
                index = path.read_bytes()
                if _RUN_TYPE in index and numba in index:
                    kept.add(path.name)
    return len(kept) >= len({measure.ranx for measure in MEASURES})


def _folders() -> Iterator[Path]:
    """Yield where numba may have kept them."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        yield from Path(named).glob("metrics_*")
        return
    spec = find_spec("ranx")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "metrics" / "__pycache__"
    with suppress(RuntimeError):  # there is no home
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        yield from (user / "numba").glob("metrics_*")


def compile_kernels() -> None:
    """Compile the kernels of all measures, or load them where numba has kept them."""
    measured([["passage"]], [[["passage"]]], [f"{name}@1" for name in dict.fromkeys(one.ranx for one in MEASURES)])


def _end_with_parent(makeshift: str) -> None:
    """End this process when the one that started it, which holds the other end of standard input, has ended."""
    sys.stdin.buffer.read()
    with suppress(OSError):  # something is in it
        Path(makeshift).rmdir()
    os._exit(1)


def main(makeshift: str) -> None:
    """Compile the kernels as `compiled_ahead` has it done, beside work that goes first."""
    global _makeshift
    _makeshift = makeshift
    threading.Thread(target=_end_with_parent, args=(makeshift,), daemon=True).start()
    os.nice(5)
    compile_kernels()


if __name__ == "__main__":
    main(sys.argv[1])
