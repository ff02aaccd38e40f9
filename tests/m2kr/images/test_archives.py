"""`m2kr.images.archives`: members of zip, tar and tar.gz, read by name and nothing else."""

import gzip
import io
import multiprocessing
import os
import sqlite3
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2kr.images import archives, gzip_points, members, tars
from m2kr.images.archives import archive_kind, open_archive
from m2kr.images.members import ArchiveError

FILES = {"a/one.jpg": b"1" * 700, "a/b/two.JPG": b"", "a/é 車.png": bytes(range(256)) * 40}
IN_PLACE = pytest.param(
    "tgz", marks=pytest.mark.skipif(find_spec("indexed_gzip") is None, reason="indexed_gzip is not installed")
)
KINDS = ("zip", "stored.zip", "tar", "tar.gz", IN_PLACE)  # a tar.gz is unpacked, and a tgz read in place


def write_tar(path, members, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write(folder, kind, files=FILES):
    path = folder / f"x.{kind}"
    if kind.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("a")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    return write_tar(path, files.items(), "w:gz" if kind in ("tar.gz", "tgz") else "w")


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


@pytest.fixture(autouse=True)
def room(request, monkeypatch, tmp_path):
    """Tests run where less than the reserve may be free, and keep out of the home folder."""
    in_place = "tgz" in getattr(request.node, "callspec", SimpleNamespace(params={})).params.values()
    monkeypatch.setattr(tars, "can_find_points", lambda: in_place)
    monkeypatch.setattr(tars, "FREE_BYTES", 0)
    monkeypatch.setenv("M2KR_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_by_their_exact_names(tmp_path, kind):
    archive = open_archive(write(tmp_path, kind))
    assert archive.top == "a/"
    for name, content in FILES.items():
        assert archive.size(name) == len(content)
        assert archive.read(name) == content
    for name in ("a", "a/", "A/one.jpg", "a/one.JPG", "one.jpg", "", "a/../a/one.jpg", "/a/one.jpg", "\ud800"):
        assert archive.size(name) is None
        with pytest.raises(ArchiveError, match="has no member"):
            archive.read(name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_by_the_content_not_the_name(tmp_path, kind):
    path = write(tmp_path, kind).rename(tmp_path / "download")
    assert archive_kind(path) == {"stored.zip": "zip", "tgz": "tar.gz"}.get(kind, kind)
    assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]


def test_the_formats_of_tar_are_all_read(tmp_path):
    long = "d" * 90 + "/" + "é" * 90 + ".jpg"
    for number, style in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        name = long if style != tarfile.USTAR_FORMAT else "short.jpg"
        path = write_tar(tmp_path / f"{number}.tar", [(f"./{name}", b"content")], format=style)
        assert open_archive(path).read(name) == b"content"


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x89PNG\r\n\x1a\n" + bytes(600), b"BZh9" + bytes(600)])
def test_anything_else_is_no_archive(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert archive_kind(tmp_path / "x") == ""
    with pytest.raises(ArchiveError, match=r"is not a \.zip, \.tar or \.tar\.gz archive"):
        open_archive(tmp_path / "x")
    assert archive_kind(tmp_path) == archive_kind(tmp_path / "missing") == ""


def test_a_tar_is_indexed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path, "tar")
    open_archive(path)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith("-lock")) == ["x.tar", "x.tar.m2kr-index"]
    archives._open.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(tars, "write_index", lambda *_: pytest.fail("indexed again"))
        assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]
    write(tmp_path, "tar", {"new/three.jpg": b"3"})
    archive = open_archive(path)
    assert (archive.top, archive.read("new/three.jpg"), archive.size("a/one.jpg")) == ("new/", b"3", None)


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0" + bytes(50), b"nonsense" * 500, "cut", "emptied"])
@pytest.mark.parametrize("kind", ["tar", IN_PLACE])
def test_a_damaged_index_is_made_again(tmp_path, kind, damage):
    path = write(tmp_path, kind)
    open_archive(path)
    index = tmp_path / f"x.{kind}.m2kr-index"
    content = index.read_bytes()
    index.write_bytes({"cut": content[: len(content) // 2], "emptied": bytes(len(content))}.get(damage, damage))
    archives._open.cache_clear()
    assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", IN_PLACE])
def test_another_archive_of_the_same_size_and_time_is_not_read_by_the_old_index(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    states = []
    for sizes in ((3_000, 700, 300), (3_000, 300, 700)):
        files = dict(zip("abc", map(os.urandom, sizes), strict=True))
        write_tar(
            path, files.items(), "w" if kind == "tar" else "w:gz", **({} if kind == "tar" else {"compresslevel": 0})
        )
        os.utime(path, (1e9, 1e9))
        states.append((path.stat().st_size, path.stat().st_mtime_ns))
        archives._open.cache_clear()
        archive = open_archive(path)
        assert {name: archive.read(name) for name in files} == files
    assert states[0] == states[1]


def test_a_tar_gz_is_unpacked_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path, "tar.gz")
    assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]
    names = {"x.tar.gz", "x.tar.gz.m2kr.tar", "x.tar.gz.m2kr-index"}
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith("-lock")} == names
    archives._open.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_unpack", lambda *_: pytest.fail("unpacked again"))
        open_archive(path)
        # The index alone is made again where it alone was lost.
        (tmp_path / "x.tar.gz.m2kr-index").unlink()
        archives._open.cache_clear()
        assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]
    write(tmp_path, "tar.gz", {"new.jpg": b"3"})
    os.utime(path, (1e9, 1e9))
    assert open_archive(path).read("new.jpg") == b"3"


def test_what_is_made_goes_to_the_cache_where_the_folder_cannot_be_written(tmp_path, monkeypatch):
    path = write(tmp_path, "tar.gz")
    monkeypatch.setattr(tars.os, "access", lambda *_: False)
    assert open_archive(path).read("a/one.jpg") == FILES["a/one.jpg"]
    assert {p.name for p in tmp_path.iterdir()} == {"x.tar.gz", "cache"}
    archives._open.cache_clear()
    monkeypatch.setattr(tars, "write_index", lambda *_: pytest.fail("indexed again"))
    open_archive(path)


def test_without_room_a_tar_gz_is_refused_with_a_remedy(tmp_path, monkeypatch):
    path = write(tmp_path, "tar.gz")
    monkeypatch.setattr(tars, "FREE_BYTES", 1 << 60)
    with pytest.raises(ArchiveError, match=r"has to be unpacked once.*Free some space"):
        open_archive(path)
    assert not (tmp_path / "x.tar.gz.m2kr.tar").exists()


def test_a_stream_that_swells_is_stopped_before_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "x.tar.gz"
    monkeypatch.setattr(gzip_points, "_UNPACKED", 1 << 12)
    path.write_bytes(gzip.compress(bytes(40 << 12)))
    monkeypatch.setattr(tars, "FREE_BYTES", 10)
    free = iter([1 << 40, 1 << 40, 5])
    monkeypatch.setattr(tars.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(ArchiveError, match="only 5 bytes are free"):
        open_archive(path)
    assert [p.name for p in tmp_path.iterdir() if "tar" in p.name and "lock" not in p.name] == ["x.tar.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_is_said_to_be_damaged(tmp_path, kind):
    path = write(tmp_path, kind, {**FILES, "a/z.jpg": os.urandom(50_000)})
    content = path.read_bytes()
    path.write_bytes(content[:-30_000])
    with pytest.raises(ArchiveError, match=r"x\..*(damaged|cannot be read as a zip).*Download"):
        open_archive(path)
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith("-lock")} == {path.name}


def test_a_damaged_zip_member_is_an_error(tmp_path):
    for kind in ("zip", "stored.zip"):
        path = write(tmp_path, kind)
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("a/one.jpg").header_offset + 30 + len("a/one.jpg")
        content = bytearray(path.read_bytes())
        content[start : start + 3] = b"\xff\xff\xff"
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match="damaged"):
            open_archive(path).read("a/one.jpg")


def test_a_zip_that_claims_less_than_it_holds_is_an_error_and_not_unpacked(tmp_path):
    path = write(tmp_path, "zip", {"bomb.jpg": bytes(50_000_000)})
    content = path.read_bytes()
    # The size in the central directory, which readers go by.
    at = content.rindex(b"PK\x01\x02") + 24
    assert struct.unpack("<I", content[at : at + 4]) == (50_000_000,)
    path.write_bytes(content[:at] + struct.pack("<I", 10) + content[at + 4 :])
    with pytest.raises(ArchiveError, match="damaged"):
        open_archive(path).read("bomb.jpg")


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_member_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 699)
    with pytest.raises(ArchiveError, match="700 bytes, more than 699"):
        open_archive(write(tmp_path, kind)).read("a/one.jpg")


@pytest.mark.parametrize("offset", [1 << 20, (1 << 64) - 2])
def test_a_zip_whose_members_are_elsewhere_is_damaged(tmp_path, monkeypatch, offset):
    archive = open_archive(write(tmp_path, "zip"))
    archive._members["a/one.jpg"] = archive._members["a/one.jpg"]._replace(start=offset)
    with pytest.raises(ArchiveError, match=r"member 'a/one\.jpg' "):
        archive.read("a/one.jpg")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [-1, 1 << 40, (1 << 63) - 1, 1 << 80])
def test_a_tar_header_that_claims_an_impossible_size_is_damage(tmp_path, kind, size):
    member = tarfile.TarInfo("one.jpg")
    member.size = size
    member.type = kind
    header = member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(header + bytes(3 * 512))
    with pytest.raises(ArchiveError, match=r"is damaged|is not a"):
        open_archive(tmp_path / "x.tar").read("one.jpg")


@pytest.mark.parametrize(("start", "size"), [(-1, 3), (0, -1), (0, 1 << 40), ("x", 3), (None, 3), (0.5, 3)])
def test_an_index_that_came_with_an_archive_reads_nothing_beyond_it(tmp_path, start, size):
    path = write(tmp_path, "tar")
    archive = open_archive(path)
    with sqlite3.connect(tmp_path / "x.tar.m2kr-index") as index:
        index.execute("UPDATE members SET start = ?, size = ?", (start, size))
    archives._open.cache_clear()
    with pytest.raises(ArchiveError, match="Delete it; it is made again"):
        open_archive(path).read("a/one.jpg")
    assert archive


def test_names_and_links_that_point_outside_reach_nothing(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    written = [
        ("../evil.jpg", b"up"),
        (str(tmp_path / "evil.jpg"), b"absolute"),
        ("real.jpg", b"real"),
        link("soft.jpg", "../secret", tarfile.SYMTYPE),
        link("hard.jpg", "../secret", tarfile.LNKTYPE),
        link("same.jpg", "real.jpg", tarfile.LNKTYPE),
        link("device.jpg", "", tarfile.CHRTYPE),
        ("twice.jpg", b"old"),
        ("twice.jpg", b"new"),
    ]
    before = {p.name for p in tmp_path.iterdir()}
    archive = open_archive(write_tar(tmp_path / "x.tar", written))
    assert archive.read("real.jpg") == archive.read("same.jpg") == b"real"
    assert archive.read("twice.jpg") == b"new"  # as tar unpacks it
    for name in ("soft.jpg", "hard.jpg", "device.jpg"):
        assert archive.size(name) is None
    assert {p.name for p in tmp_path.iterdir() if "x.tar" not in p.name} == before


def test_utf8_names_that_a_zip_does_not_declare_are_found(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("été.jpg", b"1")
    content = path.read_bytes()
    # Clear the flag in both headers, as some programs leave it.
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(magic) + at
        content = content[:start] + b"\0\0" + content[start + 2 :]
    path.write_bytes(content)
    assert open_archive(path).read("été.jpg") == b"1"


def _read_in_child(path, queue):
    archive = open_archive(path)
    queue.put([archive.read(f"{number}.jpg") == bytes([number]) * 1000 for number in range(100)])


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_forked_processes_read_at_the_same_time(tmp_path, kind):
    path = write(tmp_path, kind, {f"{number}.jpg": bytes([number]) * 1000 for number in range(100)})
    archive = open_archive(path)
    assert archive.top == ""

    def read(number):
        return archive.read(f"{number % 100}.jpg") == bytes([number % 100]) * 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(2000)))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(path, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert all(all(queue.get(timeout=20)) for _ in children)
    for child in children:
        child.join(20)
        assert child.exitcode == 0


def test_threads_that_open_one_archive_make_one_index(tmp_path):
    path = write(tmp_path, "tar.gz")
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_archive(path), range(16)))
    assert all(archive is opened[0] for archive in opened)


def test_hundreds_of_archives_are_opened_once_each(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(archives, "Tar", lambda path, *, packed: opened.append(path) or SimpleNamespace(path=path))
    content = write(tmp_path, "tar").read_bytes()
    paths = [tmp_path / f"images_{number:03d}.tar" for number in range(600)]
    for path in paths:
        path.write_bytes(content)
    for path in paths * 2:
        assert open_archive(path).path == path
    assert opened == paths


def test_threads_share_one_connection_to_an_index(tmp_path):
    archive = open_archive(write(tmp_path, "tar"))
    archive.read("a/one.jpg")
    connection = archive._known[1]

    def read(_):
        return archive.read("a/one.jpg"), archive._known[1]

    with ThreadPoolExecutor(8) as pool:
        assert all(found == (FILES["a/one.jpg"], connection) for found in pool.map(read, range(50)))


def test_an_archive_that_cannot_be_opened_is_tried_once(tmp_path, monkeypatch):
    path = write(tmp_path, "tar.gz")
    tries = []

    def fail(*_):
        tries.append(1)
        raise ArchiveError("broken")

    monkeypatch.setattr(tars, "_unpack", fail)
    for _ in range(3):
        with pytest.raises(ArchiveError, match="broken"):
            open_archive(path)
    assert len(tries) == 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_changed_in_an_archive_only_archive_errors_come_of_it(tmp_path, kind, data):
    content = bytearray(write(tmp_path, kind).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"changed-{os.urandom(8).hex()}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    before = {p.name for p in tmp_path.iterdir() if path.name not in p.name}
    try:
        archive = open_archive(path)
        for name in FILES:
            if archive.size(name) is not None:
                archive.read(name)
    except ArchiveError:
        pass
    assert {p.name for p in tmp_path.iterdir() if path.name not in p.name} == before
