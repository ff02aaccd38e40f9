"""The files of a release: what they are called, and where their bytes come from."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from m2kr.synthetic.world import Entity, Person, World


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a release.

    Attributes:
        path: relative to the release's folder.
        rows: number of pieces to come, for the progress bar.
        pieces: gives the content bit by bit; called when the file has to be written.
    """

    path: str
    rows: int
    pieces: Callable[[], Iterable[bytes]]


def encoded(pieces: Callable[[], Iterator[str]]) -> Callable[[], Iterator[bytes]]:
    """Return ``pieces`` as UTF-8."""
    return lambda: (piece.encode() for piece in pieces())


def gzipped(pieces: Callable[[], Iterator[str]]) -> Callable[[], Iterator[bytes]]:
    """Return ``pieces`` as UTF-8 in one gzip stream, whose header holds neither a name nor a time."""

    def compressed() -> Iterator[bytes]:
        stream = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for piece in pieces():
            yield stream.compress(piece.encode())
        yield stream.flush()

    return compressed


def json_lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield ``records`` one to a line, with everything beyond ASCII escaped."""
    return (json.dumps(record) + "\n" for record in records)


def json_array(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield ``records`` as one array, as ``json.dumps(..., indent=2, ensure_ascii=False)`` writes it."""
    start = "[\n"
    for record in records:
        lines = json.dumps(record, ensure_ascii=False, indent=2).split("\n")
        yield start + "\n".join(f"  {line}" for line in lines)
        start = ",\n"
    yield "[]" if start == "[\n" else "\n]"


def json_members(members: Iterable[tuple[str, Any]], *, ascii_only: bool = True) -> Iterator[str]:
    """Yield ``members`` as one object on one line."""
    start = "{"
    for key, value in members:
        name = json.dumps(key, ensure_ascii=ascii_only)
        yield f"{start}{name}: {json.dumps(value, ensure_ascii=ascii_only)}"
        start = ", "
    yield "{}" if start == "{" else "}"


def picture(path: str, world: World, entity: int, variation: object, size: tuple[int, int] | None = None) -> Part:
    """Return the JPEG at ``path`` that shows an entity, which is looked up when the picture is drawn.

    Args:
        path: relative to the release's folder.
        world: where the entity is from.
        entity: its number.
        variation: which of the entity's pictures.
        size: width and height, if not the usual ones.
    """
    return Part(path, 1, partial(_picture, world, entity, variation, size))


def _picture(world: World, entity: int, variation: object, size: tuple[int, int] | None) -> Iterator[bytes]:
    yield drawn(world.entity(entity), variation, size=size)


def drawn(
    entity: Entity, variation: object, people: tuple[Person, ...] = (), size: tuple[int, int] | None = None
) -> bytes:
    """Return a picture of ``entity`` as JPEG, with ``people`` from left to right in front of it."""
    from m2kr.synthetic.pictures import draw, jpeg  # Pillow, which text releases do without

    image = draw(entity, variation, people)
    return jpeg(image.resize(size) if size else image)


def page_url(title: str, language: str = "en") -> str:
    """Return the address of a Wikipedia article, percent-encoded."""
    return f"https://{language}.wikipedia.org/wiki/{quote(title.replace(' ', '_'), safe='(),')}"


def upload_url(name: str, scheme: str = "https") -> str:
    """Return the address of a file on Wikimedia Commons: in a folder named after the MD5 of its name."""
    name = name.replace(" ", "_").replace('"', "")
    folder = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return f"{scheme}://upload.wikimedia.org/wikipedia/commons/{folder[0]}/{folder[:2]}/{quote(name)}"
