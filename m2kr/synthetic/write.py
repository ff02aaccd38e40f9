"""Writes the made-up world as raw releases in their native formats, one folder each.

A release is a list of `Part`s, the files of its folder (m2kr/synthetic/releases). The driver, `generate`, writes each
under a temporary name and renames it, so a file that exists is whole; ``SYNTHETIC.json`` is written when all of a
folder's files are there.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from m2kr import __version__
from m2kr.common.files import atomic, write_json
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.synthetic.releases.coco import coco
from m2kr.synthetic.releases.evqa import evqa
from m2kr.synthetic.releases.kvqa import kvqa
from m2kr.synthetic.releases.llava import llava_cc3m, llava_instruct
from m2kr.synthetic.releases.msmarco import msmarco
from m2kr.synthetic.releases.okvqa import okvqa
from m2kr.synthetic.releases.oven import infoseek, oven
from m2kr.synthetic.releases.part import Part
from m2kr.synthetic.releases.wikipedia import wikipedia
from m2kr.synthetic.releases.wit import iglue_wit, wit
from m2kr.synthetic.world import World

MARKER = "SYNTHETIC.json"
UNFINISHED = "SYNTHETIC.unfinished.json"

RELEASES: dict[str, Callable[[World], Iterator[Part]]] = {
    "wit": wit,
    "iglue_wit": iglue_wit,
    "kvqa": kvqa,
    "llava_cc3m": llava_cc3m,
    "msmarco": msmarco,
    "oven": oven,
    "llava_instruct": llava_instruct,
    "okvqa": okvqa,
    "infoseek": infoseek,
    "evqa": evqa,
    "wikipedia": wikipedia,
    "coco": coco,
}
_NEEDS = {
    "iglue_wit": ("wit",),
    "oven": ("wikipedia",),
    "llava_instruct": ("coco",),
    "okvqa": ("wikipedia", "coco"),
    "infoseek": ("oven", "wikipedia"),
}
_NAMES = {
    "wit": "WIT",
    "iglue_wit": "IGLUE's image retrieval on WIT",
    "kvqa": "KVQA",
    "llava_cc3m": "LLaVA-CC3M-Pretrain-595K",
    "msmarco": "MS MARCO passage ranking",
    "oven": "OVEN",
    "llava_instruct": "LLaVA-Instruct-150K",
    "okvqa": "OK-VQA",
    "infoseek": "InfoSeek",
    "evqa": "Encyclopedic-VQA",
    "wikipedia": "the Wikipedia passages of DPR and OVEN",
    "coco": "COCO 2014",
}


def build_options(release: str, world: World) -> dict[str, dict[str, int]]:
    """Return the options, by task, with which a benchmark is built from so small a release.

    ``test_queries`` is the largest number of test queries. For MS MARCO ``pool`` is the number of passages of the valid
    and test pools; for LLaVA ``heldout_per_subset`` is the number of question-answer pairs of each file that make up
    the test pool; for Infoseek ``extra_passages`` is the number of passages in the pool that are about no entity asked
    for.
    """
    sizes = world.sizes
    if release == "msmarco":
        test = max(2, round(sizes.dev_queries * 5120 / 6980))
        return {"MSMARCO": {"pool": sizes.passages // 2, "test_queries": test}}
    if release == "llava_instruct":
        held_out = max(1, min(sizes.details, sizes.reasonings) // 5)  # the conversation file has more pairs than these
        return {"LLaVA": {"heldout_per_subset": held_out, "test_queries": max(1, round(3 * held_out * 5120 / 6006))}}
    # The published proportions would leave few test queries here, so they get half of what they share with valid.
    others: dict[str, dict[str, dict[str, int]]] = {
        "wit": {"WIT": {"test_queries": sizes.wit_val // 2}},
        "iglue_wit": {"IGLUE": {}},
        "kvqa": {"KVQA": {"test_queries": max(2, 2 * sizes.portraits // 5)}},
        "llava_cc3m": {"CC": {}},
        "oven": {"OVEN": {"test_queries": sizes.oven_val // 2}},
        "okvqa": {"OKVQA": {}},
        "infoseek": {"Infoseek": {"extra_passages": max(10, round(300 * sizes.scale))}},
        "evqa": {"EVQA": {}},
    }
    return others.get(release, {})


def with_needs(releases: Sequence[str]) -> list[str]:
    """Return ``releases`` and what these refer to, in the order of `RELEASES`.

    Raises:
        M2KRError: a name is unknown.
    """
    wanted: set[str] = set()
    for release in releases:
        if release not in RELEASES:
            close = difflib.get_close_matches(release.lower(), RELEASES, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise M2KRError(f"release {release!r} is unknown.{hint} There are: {', '.join(RELEASES)}.")
        wanted |= {release, *_NEEDS.get(release, ())}
    return [release for release in RELEASES if release in wanted]


def generate(
    out: Path, *, scale: float = 1.0, seed: int = 0, releases: Sequence[str] = tuple(RELEASES), quiet: bool = False
) -> None:
    """Write a made-up world as raw releases, one folder each; go on where an earlier run stopped.

    Args:
        out: the folder that gets a folder for each release.
        scale: how much; see `Sizes`.
        seed: which world. Equal seeds and scales give equal bytes, whichever releases are written together.
        releases: names from `RELEASES`; what they refer to (articles, pictures) is written too.
        quiet: say nothing.

    Raises:
        M2KRError: a release or the scale is not possible, or a folder holds something else than this world.
    """
    names = with_needs(releases)
    world = World(seed, float(scale))
    # All folders are looked at before anything is written.
    markers = {name: _marker(name, world) for name in names}
    for name in names:
        _check_folder(out / name, markers[name])
    for name in names:
        _write_release(out / name, markers[name], RELEASES[name](world), quiet)


def _marker(release: str, world: World) -> dict[str, Any]:
    return {
        "made_up": True,
        "note": f"Made-up data in the raw format of {_NAMES[release]}; nothing in it is real.",
        "generator": "m2kr.synthetic",
        "m2kr_version": __version__,
        "seed": world.seed,
        "scale": world.sizes.scale,
        "options": build_options(release, world),
    }


def _check_folder(folder: Path, marker: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this world, finished or not."""
    for path in (folder / MARKER, folder / UNFINISHED):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise M2KRError(f"{path} is not JSON ({error}). Delete {folder} or choose another --out.") from error
        if found != marker:
            keys = [key for key in marker if not isinstance(found, dict) or found.get(key) != marker[key]]
            differences = ", ".join(
                f"{key} {found.get(key)!r} instead of {marker[key]!r}" if isinstance(found, dict) else key
                for key in keys or ["further keys"]
                if key in marker
            )
            raise M2KRError(
                f"{folder} holds another made-up world ({differences or 'further keys'}). "
                "Delete that folder, or choose another --out."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise M2KRError(
            f"{folder} holds files but no {MARKER}, so they may be real data; nothing is written there. "
            "Choose another --out, or move these files away."
        )


def _is_picture(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg"))


def _write_release(folder: Path, marker: dict[str, Any], parts: Iterable[Part], quiet: bool) -> None:
    missing = [part for part in parts if not (folder / part.path).is_file()]
    if not missing and (folder / MARKER).is_file():
        say(f"{folder}: already there, nothing to do", quiet=quiet)
        return
    if not (folder / MARKER).is_file():
        # From here on the folder is known as ours, whenever the run ends.
        write_json(folder / UNFINISHED, marker)
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink()
    with progress(sum(part.rows for part in missing), folder.name, quiet=quiet) as bar:
        for part in missing:
            with atomic(folder / part.path, durable=not _is_picture(part.path)) as file:
                for piece in part.pieces():
                    file.write(piece)
                    bar.update()
    write_json(folder / MARKER, marker)
    (folder / UNFINISHED).unlink(missing_ok=True)
    say(f"{folder}: {len(missing)} file{'s' * (len(missing) != 1)} written", quiet=quiet)
