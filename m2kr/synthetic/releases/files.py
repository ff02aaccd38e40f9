"""A release of the made-up world: its files, and where their bytes come from."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from m2kr.synthetic.sizes import Sizes
from m2kr.synthetic.world import Entity, Person, World

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a release."""

    path: str  # relative to the release's folder
    rows: int  # number of pieces to come, for the progress bar
    pieces: Callable[[], Iterable[bytes]]  # gives the content bit by bit; called when the file has to be written


@dataclass(frozen=True, slots=True)
class SyntheticRelease:
    """One raw release."""

    name: str  # what it is called in the literature
    files: Callable[[World], Iterator[ReleaseFile]]  # yields its files
    needs: tuple[str, ...] = ()  # keys of the releases that its rows refer to
    # The options, by task, with which a benchmark is built from so small a release. The published proportions would
    # leave few test queries, so ``test_queries`` is the largest number of these.
    build_options: Callable[[Sizes], dict[str, dict[str, int]]] = lambda sizes: {}


def text_file(path: str, rows: int, pieces: Callable[[], Iterable[str]]) -> ReleaseFile:
    """Return a file of UTF-8 text, compressed where its name ends in ``.gz``."""

    def encoded() -> Iterator[bytes]:
        return (piece.encode() for piece in pieces())

    return ReleaseFile(path, rows, gzipped(encoded) if path.endswith(".gz") else encoded)


def record_file(
    path: str, rows: int, record: Callable[[int], Any], form: Callable[[Iterable[Any]], Iterator[str]]
) -> ReleaseFile:
    """Return a file of the records of rows 0..rows-1, in one of the forms of JSON below."""
    return text_file(path, rows, lambda: form(map(record, range(rows))))


def gzipped(pieces: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
    """Return ``pieces`` in one gzip stream, whose header holds neither a name nor a time."""

    def compressed() -> Iterator[bytes]:
        stream = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for piece in pieces():
            yield stream.compress(piece)
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


def json_items(records: Iterable[Any]) -> Iterator[str]:
    """Yield what stands between the brackets of an array of ``records`` on one line."""
    for number, record in enumerate(records):
        yield (", " if number else "") + json.dumps(record)


def csv_rows(columns: Sequence[str], groups: Iterable[Iterable[dict[str, str]]], **form: Any) -> Iterator[str]:
    """Yield a table with a header, group by group of its rows; a column that a row lacks is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, "", **form)
    writer.writeheader()
    for rows in groups:
        writer.writerows(rows)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the header, where there is no group


def picture_file(
    path: str, world: World, entity: int, variation: object, size: tuple[int, int] | None = None
) -> ReleaseFile:
    """Return a JPEG that shows picture ``variation`` of entity number ``entity``, which is looked up when it is drawn.

    ``size`` is its width and height, if not the usual ones.
    """
    return ReleaseFile(path, 1, lambda: [drawn(world.entity(entity), variation, size=size)])


def drawn(
    entity: Entity, variation: object, people: tuple[Person, ...] = (), size: tuple[int, int] | None = None
) -> bytes:
    """Return a picture of ``entity`` as JPEG, with ``people`` from left to right in front of it."""
    from m2kr.synthetic.pictures import draw_picture, jpeg  # Pillow, which text releases do without

    image = draw_picture(entity, variation, people)
    return jpeg(image.resize(size) if size else image)


def page_url(title: str, language: str = "en") -> str:
    """Return the address of a Wikipedia article, percent-encoded."""
    return f"https://{language}.wikipedia.org/wiki/{quote(title.replace(' ', '_'), safe='(),')}"


def upload_url(name: str, scheme: str = "https") -> str:
    """Return the address of a file on Wikimedia Commons: in a folder named after the MD5 of its name."""
    name = name.replace(" ", "_").replace('"', "")
    folder = md5(name).hex()
    return f"{scheme}://upload.wikimedia.org/wikipedia/commons/{folder[0]}/{folder[:2]}/{quote(name)}"


def md5(text: str) -> bytes:
    """Return the MD5 of a text."""
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()
