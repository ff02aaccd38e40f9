"""`m2kr.images.zip_members`: the list of members of a zip, as `zipfile` reads it, in bounded memory."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest

from m2kr.images.zip_members import DAMAGED_ZIP, HEADER_BYTES, content_start, unpacked, zip_members


def made(write: Callable[[zipfile.ZipFile], object], before: bytes = b"") -> bytes:
    file = io.BytesIO(before)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a" if before else "w") as archive:
        write(archive)
    return file.getvalue()


def some(archive: zipfile.ZipFile) -> None:
    archive.mkdir("folder")
    archive.writestr("folder/stored.jpg", b"stored" * 100)
    archive.writestr("folder/packed.jpg", b"packed" * 100, zipfile.ZIP_DEFLATED)
    archive.writestr("ümläut.jpg", b"u")
    archive.writestr("folder/stored.jpg", b"the last counts")
    archive.comment = b"a comment of some length"


@pytest.mark.parametrize("before", [b"", b"#!/bin/sh: an archive that unpacks itself\n"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_those_of_zipfile(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (1 << 31, 10):  # the second has places and sizes in 64 bits
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        content = made(some, before)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            expected = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
        found = {member.name: member for member in zip_members(io.BytesIO(content))}
        assert set(found) == set(expected)
        for name, member in found.items():
            begin = member.start + content_start(content[member.start : member.start + HEADER_BYTES])
            assert unpacked(member, content[begin : begin + member.packed]) == expected[name]


def many(count: int) -> io.BytesIO:
    def write(archive: zipfile.ZipFile) -> None:
        for number in range(count):
            archive.writestr(zipfile.ZipInfo(f"{number}.jpg"), b"")

    return io.BytesIO(made(write))


def test_there_may_be_more_members_than_16_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    assert b"PK\x06\x06" in many(30).getvalue()
    assert [member.name for member in zip_members(many(30))] == [f"{number}.jpg" for number in range(30)]


def test_their_list_takes_no_memory() -> None:
    content = many(3_000)  # of which zipfile makes more than a megabyte
    tracemalloc.start()
    try:
        assert sum(1 for _ in zip_members(content)) == 3_000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_names_that_do_not_say_that_they_are_utf8_come_under_both_spellings() -> None:
    content = made(lambda archive: archive.writestr("f\u00e9.jpg", b"x"))
    untold = content.replace(b"\x00\x08\x00\x00", b"\x00\x00\x00\x00")
    assert untold != content
    assert [member.name for member in zip_members(io.BytesIO(untold))] == ["fé.jpg", "f├⌐.jpg"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_cut_off_or_changed_is_damaged() -> None:
    content = made(some)
    directory = content.index(b"PK\x01\x02")
    for damaged in (
        b"",
        b"no zip",
        content[:-60],
        content[: directory - 5] + content[directory:],
        content[:directory] + b"PX" + content[directory + 2 :],
        content[1000:],
    ):
        with pytest.raises(DAMAGED_ZIP):
            list(zip_members(io.BytesIO(damaged)))
