"""Files appear whole or not at all; reading ahead changes nothing but the time."""

import hashlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.common import files
from m2kr.common.files import Hashing, ahead, atomic, digest, safe_name, sha256_of
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


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(M2KRError, match="could not be written"), atomic(tmp_path / "file" / "under.txt", "w"):
        pass


@given(st.lists(st.integers()), st.integers(1, 4))
def test_reading_ahead_keeps_items_and_order(items, depth):
    assert list(ahead(iter(items), depth)) == items


def test_reading_ahead_stays_a_few_items_ahead():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    stream = ahead(items(), 2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    assert list(stream) == list(range(1, 100))


def test_an_error_while_reading_ahead_comes_where_it_would_have():
    def items():
        yield 1
        raise ValueError("broken")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_the_thread_ends_when_the_reader_stops():
    before = threading.active_count()
    stream = ahead(iter(range(1_000)))
    next(stream)
    stream.close()
    assert threading.active_count() == before


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


def test_hashes_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    read = []

    def watched(path, stop):
        read.append(path.name)
        return sha256_of(path, stop)

    monkeypatch.setattr(files, "sha256_of", watched)
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache" / "hashes.json"
    for path in (one, two):
        path.write_text(path.name, encoding="utf-8")
    expected = {path: hashlib.sha256(path.name.encode()).hexdigest() for path in (one, two)}
    with Hashing(cache) as hashing:
        hashing.begin(one)
        assert {path: hashing.of(path) for path in (one, two, one)} == expected
    assert read == ["one", "two"]
    two.write_text("changed", encoding="utf-8")
    with Hashing(cache) as hashing:
        assert hashing.of(one) == expected[one]
        assert hashing.of(two) == hashlib.sha256(b"changed").hexdigest()
    assert read == ["one", "two", "two"]


def test_hashing_ends_with_its_block(tmp_path, monkeypatch):
    begun = threading.Event()

    def endless(path, stop):
        begun.set()
        assert stop.wait(20)
        raise M2KRError("stopped")

    monkeypatch.setattr(files, "sha256_of", endless)
    (tmp_path / "file").touch()
    with Hashing(tmp_path / "hashes.json") as hashing:
        future = hashing.begin(tmp_path / "file")
        assert begun.wait(20)
    assert isinstance(future.exception(), M2KRError)
    assert not (tmp_path / "hashes.json").exists()
