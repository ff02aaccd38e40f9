"""Files appear whole or not at all."""

import hashlib
import threading

import pytest

from m2kr.common.files import atomic, atomic_path, digest, files_below, safe_name, sha256_of
from m2kr.errors import M2KRError


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with atomic(path, "w") as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic(path, "w") as file:
        file.write(f"new{1 // 0}")
    assert path.read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_link_under_the_temporary_name_is_not_followed(tmp_path, mode):
    outside, inside = tmp_path / "outside", tmp_path / "folder"
    inside.mkdir()
    outside.write_text("precious", encoding="utf-8")
    (inside / ".file.tmp").symlink_to(outside)
    with atomic(inside / "file", mode) as file:
        file.write("new" if mode == "w" else b"new")
    assert outside.read_text(encoding="utf-8") == "precious"
    assert (inside / "file").read_bytes() == b"new"
    assert not (inside / "file").is_symlink()


def test_of_two_writers_of_a_file_one_is_told_and_nothing_half_written_is_published(tmp_path):
    path = tmp_path / "file"
    first, second = atomic(path, "w"), atomic(path, "w")
    first.__enter__().write("first")
    half = second.__enter__()
    half.write("sec")
    with pytest.raises(M2KRError, match="being written by another process"):
        first.__exit__(None, None, None)
    assert not path.exists()
    half.write("ond")
    second.__exit__(None, None, None)
    assert path.read_text(encoding="utf-8") == "second"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_library_may_write_the_temporary_file_under_its_path(tmp_path):
    path = tmp_path / "file"
    with atomic_path(path) as temporary:
        (tmp_path / "other").write_text("new", encoding="utf-8")
        (tmp_path / "other").replace(temporary)  # as some of them do
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"{1 // 0}", encoding="utf-8")
    with pytest.raises(M2KRError, match="file could not be written: No such file"), atomic_path(path):
        pass
    assert path.read_text(encoding="utf-8") == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_under_the_temporary_name_is_an_error_of_that_file(tmp_path):
    (tmp_path / ".file.tmp").mkdir()
    with pytest.raises(M2KRError, match="file could not be written"), atomic(tmp_path / "file"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(M2KRError, match="could not be written"), atomic(tmp_path / "file" / "under.txt", "w"):
        pass


def test_a_digest_tells_values_apart():
    assert digest("a", ["b"]) == digest("a", ["b"])
    assert digest("a", "b") != digest("ab", "")
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})


@pytest.mark.parametrize(
    ("name", "safe"), [("org/model", "org--model"), ("../x", "x"), ("a b", "a-b"), ("...", "unnamed"), ("bm25", "bm25")]
)
def test_names_become_one_harmless_path_component(name, safe):
    assert safe_name(name) == safe


def test_a_file_is_hashed_in_blocks_and_the_hashing_can_be_stopped(tmp_path):
    content = bytes(range(256)) * 5_000  # more than one block
    (tmp_path / "file").write_bytes(content)
    stop = threading.Event()
    assert sha256_of(tmp_path / "file", stop) == hashlib.sha256(content).hexdigest()
    stop.set()
    with pytest.raises(M2KRError, match=r"hashing .*file was stopped"):
        sha256_of(tmp_path / "file", stop)


def test_files_in_linked_folders_are_found_and_circles_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "weights").write_text("x")
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "config").write_text("x")
    (tmp_path / "model" / "2_Dense").symlink_to(tmp_path / "real")
    (tmp_path / "model" / "inner" / "circle").symlink_to(tmp_path / "model")
    (tmp_path / "model" / "nowhere").symlink_to(tmp_path / "missing")
    found = files_below(tmp_path / "model")
    assert [str(path.relative_to(tmp_path / "model")) for path in found] == ["2_Dense/weights", "config"]
