"""A .tar.gz that is read in place: what is kept, what is checked, and what happens without the library."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import sqlite3
import tarfile
from functools import cache
from pathlib import Path

import pytest

from m2kr.images import archives, gzip_points, tars
from m2kr.images.archives import open_archive
from m2kr.images.members import ArchiveError

CHANCE = random.Random(0)
FILES = {
    **{f"p/{number}.jpg": CHANCE.randbytes(CHANCE.randrange(1, 30_000)) for number in range(60)},
    # What compresses has points within a byte, and refers back to what stands before them.
    **{f"t/{number}.txt": b" ".join(CHANCE.choices([b"tower", b"bird", b"boat"], k=5_000)) for number in range(60)},
    "empty": b"",
}


def tar_of(files: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(written := io.BytesIO()), mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "p/0.jpg"
        tar.addfile(link)
    return written.getvalue()


@cache
def gzipped() -> bytes:
    """The files above in a tar.gz: to compress them takes longer than most tests of them."""
    return gzip.compress(tar_of(FILES), 6)


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tars, "FREE_BYTES", 0)
    monkeypatch.setattr(gzip_points, "_SPACING", 50_000)
    monkeypatch.setenv("M2KR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzipped())
    return path


@pytest.mark.parametrize("streams", [1, 5])
def test_every_member_is_read_in_place(tmp_path: Path, packed: Path, streams: int) -> None:
    pytest.importorskip("indexed_gzip")
    content = tar_of(FILES)
    step = len(content) // streams + 1
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    packed.write_bytes(b"".join(gzip.compress(part, 6) + gzip.compress(b"") for part in parts))
    archive = open_archive(packed)
    names = random.Random(1).sample(list(FILES), len(FILES))
    assert {name: archive.read(name) for name in names} == FILES
    assert archive.read("link.jpg") == FILES["p/0.jpg"]
    kept = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert kept == {packed.name, f"{packed.name}.m2kr-index"}
    with sqlite3.connect(f"{packed}.m2kr-index") as index:
        assert index.execute("SELECT count(*) FROM points WHERE window IS NOT NULL").fetchone()[0] >= 10
        assert index.execute("SELECT count(DISTINCT shift) FROM points").fetchone()[0] > 1


FROM_THE_BEGINNING = "DELETE FROM points WHERE number > 0"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE points SET window = zeroblob(32768) WHERE window IS NOT NULL",
        "UPDATE points SET window = 'text'",
        "UPDATE points SET place = place + 1",
        "UPDATE points SET place = 1 << 40",
        "UPDATE points SET shift = 9",
        "UPDATE points SET start = -5",
        "DELETE FROM points",
        FROM_THE_BEGINNING,
        "UPDATE members SET crc = crc + 1",
        "UPDATE members SET crc = NULL",
        "UPDATE members SET start = start + 512 WHERE size > 0",
    ],
)
def test_an_index_that_is_not_as_it_was_gives_no_wrong_picture(packed: Path, change: str) -> None:
    pytest.importorskip("indexed_gzip")
    open_archive(packed)
    with sqlite3.connect(f"{packed}.m2kr-index") as index:
        index.execute(change)
    archives._open.cache_clear()
    archive = open_archive(packed)
    refused = set()
    for name, content in FILES.items():
        with contextlib.suppress(ArchiveError):
            refused.add(name)
            assert archive.read(name) == content
            refused.remove(name)
    assert bool(refused) is (change != FROM_THE_BEGINNING)
    for name in refused:
        with pytest.raises(ArchiveError, match="Delete"):
            archive.read(name)
    Path(f"{packed}.m2kr-index").unlink()
    archives._open.cache_clear()
    assert open_archive(packed).read("t/3.txt") == FILES["t/3.txt"]


@pytest.mark.parametrize("there", [False, True])
def test_without_the_library_it_is_unpacked_and_the_extra_is_named(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    if there:
        pytest.importorskip("indexed_gzip")
    monkeypatch.setattr(tars, "can_find_points", lambda: there)
    assert open_archive(packed).read("p/3.jpg") == FILES["p/3.jpg"]
    assert Path(f"{packed}.m2kr.tar").exists() is not there
    told = capsys.readouterr().err
    assert ("pip install 'm2kr[archives]'" in told) is not there
    assert told.count("\n") == 1


def test_what_was_unpacked_before_the_library_came_is_read(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "can_find_points", lambda: False)
    open_archive(packed)
    archives._open.cache_clear()
    monkeypatch.setattr(tars, "can_find_points", lambda: pytest.fail("points are looked for"))
    assert open_archive(packed).read("p/3.jpg") == FILES["p/3.jpg"]
