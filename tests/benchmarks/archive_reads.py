"""One way of reading pictures out of a .tar.gz by name, measured in a process of its own; see test_archives.py.

    python tests/benchmarks/archive_reads.py WAY ARCHIVE PICTURES INDEX OUT

PICTURES is a JSON list of [name, start in the unpacked tar, bytes, SHA-256] in the order to read in; INDEX is what a
library keeps, if it is there. Writes a JSON object to OUT: ``first`` and ``reads``, seconds up to the first picture and
for the others, the same of the processor (``first_cpu``, ``reads_cpu``), and whether all were ``right``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

Read = Callable[[str, int, int], bytes]
SPACING = {"indexed_gzip 1 MiB": 1 << 20, "indexed_gzip 4 MiB": 4 << 20}


def ours(archive: Path, in_place: bool) -> Read:
    from m2kr.images import tars
    from m2kr.images.archives import open_archive

    tars.can_find_points = lambda: in_place
    opened = open_archive(archive)
    return lambda name, start, size: opened.read(name)


def sought(file: Any) -> Read:
    def read(name: str, start: int, size: int) -> bytes:
        file.seek(start)
        content: bytes = file.read(size)
        return content

    return read


def indexed(archive: Path, index: Path, spacing: int) -> Read:
    from indexed_gzip import IndexedGzipFile

    file = IndexedGzipFile(str(archive), spacing=spacing, index_file=str(index) if index.exists() else None)
    if not index.exists():
        file.build_full_index()
        file.export_index(str(index))
    return sought(file)


def rapid(archive: Path, index: Path) -> Read:
    import rapidgzip

    file = rapidgzip.open(str(archive), parallelization=2)
    if index.exists():
        file.import_index(str(index))
    else:
        file.block_offsets()  # goes through the file
        file.export_index(str(index))
    return sought(file)


def copies(archive: Path, spacing: int) -> Read:
    """Copies of the standard library's decompressor, which cannot be kept on disk: made anew by each process."""
    file = archive.open("rb")
    inflate = zlib.decompressobj(31)
    points, at, due = [(0, 0, inflate.copy())], 0, spacing
    while block := file.read(1 << 18):
        at += len(inflate.decompress(block))
        if at >= due:
            points.append((at, file.tell(), inflate.copy()))
            due = at + spacing
    starts = [start for start, _, _ in points]

    def read(name: str, start: int, size: int) -> bytes:
        begun, place, kept = points[bisect_right(starts, start) - 1]
        again, skip, found = kept.copy(), start - begun, b""
        file.seek(place)
        while len(found) < skip + size:
            found += again.decompress(file.read(1 << 16))
        return found[skip : skip + size]

    return read


def reader(way: str, archive: Path, index: Path) -> Read:
    if way in SPACING:
        return indexed(archive, index, SPACING[way])
    if way == "rapidgzip":
        return rapid(archive, index)
    if way == "copies 4 MiB":
        return copies(archive, 4 << 20)
    return ours(archive, in_place=way == "m2kr, in place")


def main() -> None:
    way, *names = sys.argv[1:]
    archive, pictures, index, out = map(Path, names)
    wanted = json.loads(pictures.read_text(encoding="utf-8"))
    times = [(time.perf_counter(), time.process_time())]
    read = reader(way, archive, index)
    contents = [read(*wanted[0][:3])]
    times.append((time.perf_counter(), time.process_time()))
    contents += [read(*picture[:3]) for picture in wanted[1:]]
    times.append((time.perf_counter(), time.process_time()))
    first, reads = ([after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(times))
    right = [hashlib.sha256(content).hexdigest() for content in contents] == [picture[3] for picture in wanted]
    told = {"first": first[0], "first_cpu": first[1], "reads": reads[0], "reads_cpu": reads[1], "right": right}
    out.write_text(json.dumps(told), encoding="utf-8")


main()
