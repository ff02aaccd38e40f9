"""Raw files are hashed once, and not again until they change."""

import hashlib
import threading

from m2kr.build import hashing as module
from m2kr.build.hashing import FileHasher
from m2kr.common.files import sha256_of
from m2kr.errors import M2KRError


def test_hashes_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    read = []

    def watched(path, stop):
        read.append(path.name)
        return sha256_of(path, stop)

    monkeypatch.setattr(module, "sha256_of", watched)
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache" / "hashes.json"
    for path in (one, two):
        path.write_text(path.name, encoding="utf-8")
    expected = {path: hashlib.sha256(path.name.encode()).hexdigest() for path in (one, two)}
    with FileHasher(cache) as hashing:
        hashing.begin(one)
        assert {path: hashing.of(path) for path in (one, two, one)} == expected
    assert read == ["one", "two"]
    two.write_text("changed", encoding="utf-8")
    with FileHasher(cache) as hashing:
        assert hashing.of(one) == expected[one]
        assert hashing.of(two) == hashlib.sha256(b"changed").hexdigest()
    assert read == ["one", "two", "two"]


def test_hashing_ends_with_its_block(tmp_path, monkeypatch):
    begun = threading.Event()

    def endless(path, stop):
        begun.set()
        assert stop.wait(20)
        raise M2KRError("stopped")

    monkeypatch.setattr(module, "sha256_of", endless)
    (tmp_path / "file").touch()
    with FileHasher(tmp_path / "hashes.json") as hashing:
        future = hashing.begin(tmp_path / "file")
        assert begun.wait(20)
    assert isinstance(future.exception(), M2KRError)
    assert not (tmp_path / "hashes.json").exists()
