"""`m2kr.search.store`: the store that survives being stopped anywhere."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2kr.errors import M2KRError
from m2kr.search.ragged import Ragged, as_tensor
from m2kr.search.store import EmbeddingStore
from tests.m2kr.search.items import assert_items, items_of


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_append_and_resume(tmp_path: Path) -> None:
    items = items_of([2, 0, 3, 1, 0, 0, 5])
    assert EmbeddingStore(tmp_path, "key").rows == 0
    for start, stop in ((0, 2), (2, 5), (5, 5), (5, 7)):
        store = EmbeddingStore(tmp_path, "key")
        assert store.rows == len(store) == start
        store.append(items[start:stop])
        assert store.rows == stop
        assert_items(store.load(), items[:stop])
    shards = list(EmbeddingStore(tmp_path, "key").shards())
    assert [len(shard) for shard in shards] == [2, 3, 2]
    assert EmbeddingStore(tmp_path, "key").dim == 4
    assert len(names(tmp_path)) == 7  # three shards of two files, and meta.json


def test_the_same_appends_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        for items in (items_of([1, 2]), items_of([3], seed=1)):
            EmbeddingStore(folder, "key", dtype="float16").append(items)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("kind", ["multi", "single"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip(tmp_path: Path, kind: Any, dtype: Any) -> None:
    torch_type = getattr(torch, dtype)
    vectors = torch.randn((9, 4), generator=torch.Generator().manual_seed(0)).to(torch_type)
    store = EmbeddingStore(tmp_path, "key", kind=kind, dtype=dtype, dim=4)
    chunks = (vectors[:6], vectors[6:])
    for chunk in chunks:
        store.append(chunk if kind == "single" else Ragged.from_lengths(chunk, [len(chunk) - 1, 0, 1]))
    back = EmbeddingStore(tmp_path, "key", kind=kind, dtype=dtype)
    whole = back.load()
    assert back.rows == (9 if kind == "single" else 6)
    numbers = as_tensor(whole.vectors if isinstance(whole, Ragged) else whole)
    assert numbers.dtype == torch_type
    assert torch.equal(numbers, vectors)
    for shard, chunk in zip(back.shards(), chunks, strict=True):
        array: object = shard.vectors if isinstance(shard, Ragged) else shard
        assert isinstance(array, torch.Tensor if dtype == "bfloat16" else np.memmap)
        assert torch.equal(as_tensor(array), chunk)
    assert {p.stat().st_size for p in tmp_path.glob("*.vectors")} == {
        6 * 4 * torch_type.itemsize,
        3 * 4 * torch_type.itemsize,
    }


@pytest.mark.parametrize("kind", ["multi", "single"])
@pytest.mark.parametrize("most", [1, 3, 1 << 16])
def test_8_bits_round_trip_in_parts(tmp_path: Path, kind: Any, most: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    vectors[4] = 0
    store = EmbeddingStore(tmp_path, "key", kind=kind, dtype="int8")
    for chunk in (vectors[:6], vectors[6:]):
        store.append(chunk if kind == "single" else Ragged.from_lengths(chunk, [len(chunk) - 1, 0, 1]))
    assert {p.stat().st_size for p in tmp_path.glob("*.vectors")} == {6 * (4 + 4), 3 * (4 + 4)}
    back = EmbeddingStore(tmp_path, "key", kind=kind, dtype="int8")
    whole = back.load()
    numbers = np.asarray(whole.vectors if isinstance(whole, Ragged) else whole)
    assert numbers.dtype == np.float32
    assert (np.abs(numbers - vectors) <= np.abs(vectors).max(axis=1, keepdims=True) / 253).all()
    assert not np.array_equal(numbers, vectors)
    np.testing.assert_array_equal(numbers[4], 0)
    parts = list(back.shards(most=most))
    if kind == "single":
        assert max(len(part) for part in parts) <= most
        np.testing.assert_array_equal(np.concatenate(parts), numbers)
        return
    assert isinstance(whole, Ragged)
    np.testing.assert_array_equal(whole.lengths, [5, 0, 1, 2, 0, 1])
    assert all(isinstance(part, Ragged) and (len(part) == 1 or len(part.vectors) <= most) for part in parts)
    assert_items(Ragged.concatenate(parts), list(whole))  # type: ignore[arg-type]


def test_8_bits_resume_after_a_kill_and_are_the_same_bytes(tmp_path: Path) -> None:
    items = items_of([2, 3, 0, 1])
    for folder in (tmp_path / "a", tmp_path / "b"):
        EmbeddingStore(folder, "key", dtype="int8").append(items[:2])
        if folder.name == "b":  # killed between the vectors and their lengths of the next shard
            (folder / "000000000002.vectors").write_bytes(b"all but the lengths")
        store = EmbeddingStore(folder, "key", dtype="int8")
        assert store.rows == 2
        store.append(items[2:])
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert contents[0] == contents[1]
    (tmp_path / "a" / "000000000000.vectors").write_bytes(b"short")
    with pytest.raises(M2KRError, match=r"has 5 bytes, but .* calls for 40"):
        EmbeddingStore(tmp_path / "a", "key", dtype="int8")


def test_8_bits_of_only_empty_items(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key", dtype="int8")
    store.append([np.zeros((0, 4))])
    loaded = EmbeddingStore(tmp_path, "key", dtype="int8").load()
    assert isinstance(loaded, Ragged)
    assert (len(loaded), loaded.vectors.dtype) == (1, np.float32)
    with pytest.raises(M2KRError, match="row 1 hold NaN or infinity, or numbers too large for float32"):
        store.append([np.full((1, 4), 1e300)])


def test_converts_what_is_appended(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key", dtype="bfloat16")
    items = items_of([3, 2])
    store.append([torch.from_numpy(items[0]).requires_grad_(), items[1].astype(np.float64)])
    assert_items(store.load(), [torch.from_numpy(item).bfloat16().float().numpy() for item in items])


def test_mapped_embeddings_cannot_change_the_file(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key", kind="single")
    store.append(np.ones((2, 4)))
    store.load()[:] = 7  # type: ignore[index]
    np.testing.assert_array_equal(EmbeddingStore(tmp_path, "key", kind="single").load(), np.ones((2, 4)))


def test_a_store_of_only_empty_items(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key")
    assert_items(store.load(), [])
    store.append([np.zeros((0, 0)), np.zeros((0, 4))])
    store = EmbeddingStore(tmp_path, "key")
    assert store.rows == 2
    assert store.dim is None
    store.append(items_of([2]))
    np.testing.assert_array_equal(EmbeddingStore(tmp_path, "key").load().lengths, [0, 0, 2])  # type: ignore[union-attr]


def test_what_a_kill_leaves_is_not_there_and_is_swept(tmp_path: Path) -> None:
    items = items_of([2, 3, 1])
    EmbeddingStore(tmp_path, "key").append(items[:1])
    # Killed while vectors were written; and, in another life, between the vectors and their lengths.
    (tmp_path / ".000000000001.vectors.4711.tmp").write_bytes(b"half")
    (tmp_path / "000000000001.vectors").write_bytes(b"all but the lengths")
    (tmp_path / "000000000009.vectors").write_bytes(b"beyond")
    (tmp_path / "notes.txt").write_text("not ours")
    store = EmbeddingStore(tmp_path, "key")
    assert store.rows == 1
    assert len(names(tmp_path)) == 7
    assert_items(store.load(), items[:1])
    store.append(items[1:])
    assert_items(EmbeddingStore(tmp_path, "key").load(), items)
    assert names(tmp_path) == [
        *(f"{row:012d}.{suffix}" for row in (0, 1) for suffix in ("lengths.npy", "vectors")),
        "meta.json",
        "notes.txt",
    ]


def test_kill_9_while_appending(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from m2kr.search.store import EmbeddingStore
store = EmbeddingStore(sys.argv[1], "key")
while True:
    store.append([np.full((n % 4, 8), n, np.float32) for n in range(store.rows, store.rows + 50)])
    print(store.rows, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = [int(process.stdout.readline()) for _ in range(8)][-1]
        process.send_signal(signal.SIGKILL)
    store = EmbeddingStore(tmp_path, "key")
    assert store.rows >= reported
    assert store.rows % 50 == 0
    store.append([np.full((n % 4, 8), n, np.float32) for n in range(store.rows, store.rows + 5)])
    loaded = EmbeddingStore(tmp_path, "key").load()
    assert_items(loaded, [np.full((n % 4, 8), n, np.float32) for n in range(store.rows)])
    assert not list(tmp_path.glob(".*"))


def test_another_key_starts_anew(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "old", dtype="float16").append(items_of([2, 3]))
    (tmp_path / "notes.txt").write_text("not ours")
    store = EmbeddingStore(tmp_path, "new", dim=6)
    assert store.rows == 0
    assert names(tmp_path) == ["meta.json", "notes.txt"]
    store.append(items_of([1], dim=6))
    assert json.loads((tmp_path / "meta.json").read_text())["key"] == "new"
    assert EmbeddingStore(tmp_path, "new").rows == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "single"}, "with kind 'multi', not 'single'"),
        ({"dtype": "float16"}, "with dtype 'float32', not 'float16'"),
        ({"dim": 5}, "with dim 4, not 5"),
        ({"kind": "many"}, "kind must be"),
        ({"dtype": "int8"}, "with dtype 'float32', not 'int8'"),
        ({"dtype": "int4"}, "dtype must be"),
    ],
)
def test_the_same_key_in_another_form_is_refused_and_kept(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    EmbeddingStore(tmp_path, "key").append(items_of([2]))
    with pytest.raises(M2KRError, match=message):
        EmbeddingStore(tmp_path, "key", **settings)
    assert EmbeddingStore(tmp_path, "key").rows == 1


@pytest.mark.parametrize("name", ["000000000002.vectors", "000000000002.lengths.npy"])
@pytest.mark.parametrize("size", [0, 5, -1, None])
def test_a_damaged_shard_is_named_and_its_deletion_mends_the_store(tmp_path: Path, name: str, size: int | None) -> None:
    items = items_of([2, 3, 1, 0, 2])
    store = EmbeddingStore(tmp_path, "key")
    for start in (0, 2, 4):
        store.append(items[start : start + 2])
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if size is not None:
        (tmp_path / name).write_bytes(data[:size])
    if size is None and name.endswith("npy"):
        store = EmbeddingStore(tmp_path, "key")
    else:
        lengths_file = tmp_path / "000000000002.lengths.npy"
        with pytest.raises(M2KRError, match=f"000000000002.*delete (it|{lengths_file})") as caught:
            EmbeddingStore(tmp_path, "key")
        assert name in str(caught.value)
        lengths_file.unlink()
        store = EmbeddingStore(tmp_path, "key")
    assert store.rows == 2
    store.append(items[2:])
    assert_items(EmbeddingStore(tmp_path, "key").load(), items)


def test_a_shard_cut_after_opening_is_found_when_it_is_read(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key")
    store.append(items_of([2]))
    (tmp_path / "000000000000.vectors").write_bytes(b"")
    with pytest.raises(M2KRError, match=r"has 0 bytes, but .* calls for 32"):
        store.load()


def test_a_meta_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(M2KRError, match=r"meta.json is no note of embeddings.* Delete it"):
        EmbeddingStore(tmp_path, "key")


@pytest.mark.parametrize(
    ("kind", "embeddings", "message"),
    [
        ("multi", np.ones((2, 4)), "several vectors an item: append a list"),
        ("multi", [np.ones((2, 5))], "dimension 5 cannot be added to .* which has 4"),
        ("multi", [np.ones((2, 4)), np.full((1, 4), np.nan)], "row 2 hold NaN"),
        ("multi", [np.full((1, 4), 70000.0)], "row 1 hold .* too large for float16"),
        ("single", [np.ones((2, 4))], "one vector an item: append an array"),
        ("single", np.ones(4), "one vector an item"),
        ("single", np.ones((2, 5)), "dimension 5"),
    ],
)
def test_what_cannot_be_appended(tmp_path: Path, kind: Any, embeddings: Any, message: str) -> None:
    store = EmbeddingStore(tmp_path, "key", kind=kind, dtype="float16")
    store.append(np.ones((1, 4)) if kind == "single" else items_of([3]))
    before = names(tmp_path)
    with pytest.raises(M2KRError, match=message):
        store.append(embeddings)
    assert store.rows == 1
    assert names(tmp_path) == before


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit of 1 KiB a file stands in for a disk without space. It holds for pytest's own output file as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_the_store_whole(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "key")
    store.append(items_of([3]))
    with full_disk(), pytest.raises(M2KRError, match=r"1.vectors could not be written: (File too large|No space)"):
        store.append(items_of([3000]))
    assert store.rows == EmbeddingStore(tmp_path, "key").rows == 1
    assert not list(tmp_path.glob(".*"))
    store.append(items_of([2]))
    np.testing.assert_array_equal(EmbeddingStore(tmp_path, "key").load().lengths, [3, 2])  # type: ignore[union-attr]
