"""Unpacking a gzip file from the middle."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from m2kr.images import gzip_points
from m2kr.images.gzip_points import DAMAGED_GZIP, PointFinder, RestartPoint, unpack_from

WORDS = b" ".join(bytes(random.Random(0).choices(b"abcdefgh", k=40_000)).split(b"a"))
NOISE = random.Random(1).randbytes(60_000)


def deflated(content: bytes, window: bytes | None = None) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, **({"zdict": window} if window else {}))
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("after", [WORDS, NOISE, NOISE + WORDS, b""])
def test_it_begins_at_any_bit_with_what_stood_before(after: bytes) -> None:
    seen = set()
    for length in range(32_768, 32_818):
        before = (NOISE + WORDS)[-length:]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        begun = packer.compress(before) + packer.flush(zlib.Z_PARTIAL_FLUSH)  # it ends within a byte, as a rule
        file = io.BytesIO(begun + packer.compress(after) + packer.flush() + b"checksum")
        for shift in range(8):
            with contextlib.suppress(*DAMAGED_GZIP):
                point = RestartPoint(length, len(begun), shift, before[-32_768:])
                if b"".join(unpack_from(file, point)) == after:
                    seen.add(shift)
                    break
        else:
            pytest.fail(f"{length}: no bit of the byte goes on")
    assert seen == set(range(8)) or after != WORDS  # noise is kept as it is, from the next whole byte on


def test_little_that_unpacks_to_much_comes_in_pieces() -> None:
    file = io.BytesIO(deflated(bytes(40 << 20)))
    pieces = list(map(len, unpack_from(file, RestartPoint(0, 0, 0, None))))
    assert sum(pieces) == 40 << 20
    assert max(pieces) <= 1 << 20


@pytest.mark.parametrize("content", [b"", deflated(NOISE)[:-20], b"\xff" * 100])
@pytest.mark.parametrize("shift", [0, 3])
def test_what_is_no_deflate_or_ends_early_is_an_error(content: bytes, shift: int) -> None:
    with pytest.raises(DAMAGED_GZIP):
        list(unpack_from(io.BytesIO(content), RestartPoint(0, 0, shift, None)))


@pytest.mark.parametrize("streams", [1, 3])
def test_every_point_that_is_found_gives_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    pytest.importorskip("indexed_gzip")
    monkeypatch.setattr(gzip_points, "_SPACING", 40_000)
    parts = [(NOISE + WORDS) * 6, b"", WORDS * 3][:streams]
    path = tmp_path / "x.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    content = b"".join(parts)
    finder = PointFinder(path)
    for done in range(0, len(content), 50_000):
        finder.go_to(done)
    points = list(finder.points(len(content), tmp_path / "points"))
    assert max(after.start - one.start for one, after in pairwise(points)) < 120_000
    assert len(content) - points[-1].start < 120_000
    assert len(points) > 8
    assert [point.start for point in points] == sorted(point.start for point in points)
    assert len({point.shift for point in points}) > 1
    assert sum(point.window is None for point in points) == streams
    with path.open("rb") as file:
        for point in points:
            if point.start < len(content):
                piece = next(filter(None, unpack_from(file, point)), b"")
                assert content[point.start : point.start + len(piece)] == piece
    assert list(tmp_path.iterdir()) == [path]
