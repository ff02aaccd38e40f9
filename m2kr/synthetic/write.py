"""Writes the made-up world as raw releases in their native formats, one folder each.

Each module of ``releases`` says what the files of one release are. `generate` writes each under a temporary name and
renames it, so a file that exists is whole; ``SYNTHETIC.json`` is written when all of a folder's files are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from m2kr import __version__, tasks
from m2kr.common.files import atomic, write_json, writing
from m2kr.common.json_input import read_json
from m2kr.common.locks import clear_lock, is_unclaimed, one_writer
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError, did_you_mean
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease
from m2kr.synthetic.world import World

MARKER = "SYNTHETIC.json"
UNFINISHED = "SYNTHETIC.unfinished.json"

RELEASES: dict[str, SyntheticRelease] = {
    name: import_module(f"m2kr.synthetic.releases.{name}").RELEASE for name in (*tasks.RELEASES, "coco")
}
"""Every release that can be made up, in the order in which they are written."""

PASSAGE_IMAGES = "passage_images"
"""Name of the folder with pictures for passages, which no release has, and which is written only if asked for."""


def _every() -> dict[str, SyntheticRelease]:
    return {**RELEASES, PASSAGE_IMAGES: import_module(f"m2kr.synthetic.releases.{PASSAGE_IMAGES}").RELEASE}


def with_needs(releases: Sequence[str]) -> list[str]:
    """Return ``releases`` and what these refer to, in the order of `RELEASES`, `PASSAGE_IMAGES` last.

    Raises:
        M2KRError: a name is unknown.
    """
    wanted: set[str] = set()
    every = _every()
    for release in releases:
        if release not in every:
            hint = did_you_mean(release, RELEASES)
            raise M2KRError(f"release {release!r} is unknown.{hint} There are: {', '.join(RELEASES)}.")
        wanted |= {release, *every[release].needs}
    return [release for release in every if release in wanted]


def generate(
    out: Path, *, scale: float = 1.0, seed: int = 0, releases: Sequence[str] = tuple(RELEASES), quiet: bool = False
) -> None:
    """Write a made-up world as raw releases, one folder each; go on where an earlier run stopped.

    While another process writes ``out``, this waits.

    Args:
        out: the folder that gets a folder for each release.
        scale: how much; see `Sizes`.
        seed: which world. Equal seeds and scales give equal bytes, whichever releases are written together.
        releases: names from `RELEASES`, or `PASSAGE_IMAGES`; what they refer to (articles, pictures) is written too.
        quiet: say nothing.

    Raises:
        M2KRError: a release or the scale is not possible, or a folder holds something else than this world.
    """
    names, every = with_needs(releases), _every()
    world = World(seed, float(scale))
    # All folders are looked at before anything is written.
    markers = {name: _marker(name, world) for name in names}
    for name in names:
        _check_folder(out / name, markers[name])
    finished = all(_to_write(out / name, every[name].files(world)) is None for name in names)
    if finished:
        clear_lock(out)
    # What is finished may be in a folder that is read-only.
    with nullcontext() if finished else one_writer(out, quiet=quiet):
        for name in names:
            _check_folder(out / name, markers[name])  # again: another process may have written meanwhile
            _write_release(out / name, markers[name], every[name].files(world), quiet)


def _marker(release: str, world: World) -> dict[str, Any]:
    return {
        "made_up": True,
        "note": f"Made-up data in the raw format of {_every()[release].name}; nothing in it is real.",
        "generator": "m2kr.synthetic",
        "m2kr_version": __version__,
        "seed": world.seed,
        "scale": world.sizes.scale,
        "options": _every()[release].build_options(world.sizes),
    }


def _check_folder(folder: Path, marker: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this world, finished or not."""
    for path in (folder / MARKER, folder / UNFINISHED):
        if not path.is_file():
            continue
        found = read_json(path, dict[str, Any], "mark of a made-up world", f"Delete {folder} or choose another --out.")
        if found != marker:
            differences = [
                f"{key} {found.get(key)!r} instead of {value!r}"
                for key, value in marker.items()
                if found.get(key) != value
            ]
            raise M2KRError(
                f"{folder} holds another made-up world ({', '.join(differences) or 'further keys'}). "
                "Delete that folder, or choose another --out."
            )
        return
    if not is_unclaimed(folder, UNFINISHED):
        raise M2KRError(
            f"{folder} holds files but no {MARKER}, so they may be real data; nothing is written there. "
            "Choose another --out, or move these files away."
        )


def _to_write(folder: Path, files: Iterable[ReleaseFile]) -> list[ReleaseFile] | None:
    """Return the files of a release that are not there; None where it is finished."""
    missing = [each for each in files if not (folder / each.path).is_file()]
    finished = not missing and (folder / MARKER).is_file() and not (folder / UNFINISHED).exists()
    return None if finished else missing


def _write_release(folder: Path, marker: dict[str, Any], files: Iterable[ReleaseFile], quiet: bool) -> None:
    missing = _to_write(folder, files)
    if missing is None:
        say(f"{folder}: already there, nothing to do", quiet=quiet)
        return
    if not (folder / MARKER).is_file():
        # From here on the folder is known as ours, whenever the run ends.
        write_json(folder / UNFINISHED, marker)
        with writing(folder):
            for leftover in folder.rglob(".*.tmp"):
                leftover.unlink()
    with progress(sum(each.rows for each in missing), folder.name, quiet=quiet) as bar:
        for each in missing:
            with atomic(folder / each.path, durable=not each.path.lower().endswith((".jpg", ".jpeg"))) as file:
                for piece in each.pieces():
                    file.write(piece)
                    bar.update()
    write_json(folder / MARKER, marker)
    with writing(folder):
        (folder / UNFINISHED).unlink(missing_ok=True)
    say(f"{folder}: {len(missing)} file{'s' * (len(missing) != 1)} written", quiet=quiet)
