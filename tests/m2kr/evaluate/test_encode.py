"""`m2kr.evaluate.encode`: stored embeddings that are found again, and pictures decoded by other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode
from m2kr.evaluate.encode import Encoder, decoded, texts_key
from m2kr.images.roots import ImageError, ImageRoots
from m2kr.search.store import as_tensor

COUNT = 90


class Lengths:
    """One vector a text: its length and 1. It keeps what it is given."""

    name = "lengths"
    reads = frozenset({"text"})
    vectors = "single"
    reads_instructions = False

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.given: list[str] = []
        self.fail_at = -1

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self.encode_document(inputs, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        if len(self.given) == self.fail_at:
            raise ZeroDivisionError
        self.given.extend(inputs)
        return np.array([[len(text), 1] for text in inputs], dtype=np.float32)


TEXTS = ["a" * number for number in range(1, 26)]


@pytest.fixture
def roots(tmp_path: Path) -> ImageRoots:
    """`COUNT` pictures of one colour each, which tells their number, in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (5 + number % 3, 4), (number, 0, 255 - number)).save(folder / f"{number}.png")
    return ImageRoots([folder])


PATHS = [f"{number}.png" for number in range(COUNT)]


def halved(picture: Image.Image) -> Any:
    return np.asarray(picture)[::2]


def mark(folder: Path, picture: Image.Image) -> Any:
    (folder / str(picture.getpixel((0, 0)))).touch()
    return np.asarray(picture)


def end_process(picture: Image.Image) -> Any:
    os._exit(3)


# --- embeddings -----------------------------------------------------------------------------------------------------


def test_kept_embeddings_are_found_again(tmp_path: Path) -> None:
    first = Lengths()
    made = Encoder(first, tmp_path / "kept").passages(TEXTS, tmp_path / "work", "X")
    vectors = np.array(made.store.load())
    assert not made.reused
    Encoder(first, tmp_path / "kept").keep(tmp_path / "work")
    again = Lengths()
    found = Encoder(again, tmp_path / "kept").passages(TEXTS, tmp_path / "other", "X")
    assert (found.reused, found.seconds, found.memory) == (True, made.seconds, made.memory)
    assert not again.given
    np.testing.assert_array_equal(found.store.load(), vectors)
    np.testing.assert_array_equal(vectors, [[len(text), 1] for text in TEXTS])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("what", ["texts", "order", "settings", "name", "dtype", "device", "store"])
def test_embeddings_of_anything_else_are_not_found(tmp_path: Path, what: str) -> None:
    made = Encoder(Lengths(), tmp_path / "kept")
    made.passages(TEXTS, tmp_path / "work", "X")
    made.keep(tmp_path / "work")
    other, texts = Lengths(), TEXTS
    if what == "texts":
        texts = [*TEXTS[:-1], "b" * 25]
    elif what == "order":
        texts = TEXTS[::-1]
    elif what == "settings":
        other.settings = {"layers": 1}
    elif what == "name":
        other.name = "other"
    options: dict[str, Any] = {"dtype": "float16", "device": "cuda:0", "store_dtype": "int8"}
    options = {name: value for name, value in options.items() if name.startswith(what)}
    found = Encoder(other, tmp_path / "kept", **options).passages(texts, tmp_path / "work", "X")
    assert not found.reused
    assert other.given == texts


def test_the_batch_size_and_the_number_of_the_device_do_not_matter(tmp_path: Path) -> None:
    made = Encoder(Lengths(), tmp_path / "kept", batch_size=1, device="cuda:0")
    made.passages(TEXTS, tmp_path / "work", "X")
    made.keep(tmp_path / "work")
    other = Encoder(Lengths(), tmp_path / "kept", batch_size=9, device="cuda:1")
    assert other.passages(TEXTS, tmp_path / "work", "X").reused


def test_passages_are_stored_in_a_type_of_their_own_and_queries_in_that_of_the_model(
    built: Path, tmp_path: Path
) -> None:
    data = load_task("MSMARCO", built)
    asked = []
    for store_dtype in (None, "bfloat16", "int8"):
        encoder = Encoder(Lengths(), tmp_path / "kept", dtype="float16", store_dtype=store_dtype)  # type: ignore[arg-type]
        passages = encoder.passages(TEXTS, tmp_path / "work", "X")
        assert passages.store.dtype == store_dtype or store_dtype is None
        vectors = as_tensor(passages.store.load()).float().numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors, [[len(text), 1] for text in TEXTS], atol=25 / 254)
        queries = encoder.queries(data, None, tmp_path / "work")
        assert queries.store.dtype == "float16"
        asked.append(queries.reused)
        encoder.keep(tmp_path / "work")
    assert asked == [False, True, True]  # queries do not depend on how passages are stored
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "kept").iterdir()) == ["passages"] * 3 + ["queries"]


def test_unfinished_embeddings_are_not_kept_and_their_time_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 10)
    killed = Lengths()
    killed.fail_at = 20
    encoder = Encoder(killed, tmp_path / "kept")
    with pytest.raises(ZeroDivisionError):
        encoder.passages(TEXTS, tmp_path / "work", "X")
    before = encode._read_facts(tmp_path / "work" / "passages")
    assert before is not None
    assert before["rows"] == 20
    encoder.keep(tmp_path / "work")
    assert not (tmp_path / "kept").exists()
    again = Lengths()
    made = Encoder(again, tmp_path / "kept").passages(TEXTS, tmp_path / "work", "X")
    assert killed.given + again.given == TEXTS
    assert made.seconds > before["seconds"] > 0
    assert not made.reused


def test_a_key_tells_where_one_text_ends() -> None:
    keys = [
        texts_key(["ab", "c"]),
        texts_key(["a", "bc"]),
        texts_key(["abc"]),
        texts_key(["abc"], []),
        texts_key([], ["abc"]),
        texts_key(["c", "ab"]),
        texts_key(["ab"], ["c"]),
        texts_key(["\ud800"]),
    ]
    assert len(set(keys)) == len(keys)
    assert texts_key(iter(["ab", "c"])) == keys[0]


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [None, halved])
def test_workers_give_the_same_pictures_in_the_same_order(roots: ImageRoots, prepare: Any) -> None:
    alone = list(decoded(roots, PATHS, prepare))
    found = list(decoded(roots, PATHS, prepare, workers=2))
    assert len(found) == COUNT
    for number, (one, other) in enumerate(zip(alone, found, strict=True)):
        assert type(one) is type(other) is (Image.Image if prepare is None else np.ndarray)
        array = np.asarray(other)
        assert array.dtype == np.uint8
        assert array.shape == (4 if prepare is None else 2, 5 + number % 3, 3)
        assert (array == (number, 0, 255 - number)).all()
        np.testing.assert_array_equal(np.asarray(one), array)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_comes_as_its_error_in_its_place(roots: ImageRoots, workers: int) -> None:
    (roots.folders[0] / "70.png").write_bytes(b"no picture")
    (roots.folders[0] / "71.png").unlink()
    found = list(decoded(roots, PATHS, workers=workers))
    assert [number for number, item in enumerate(found) if isinstance(item, ImageError)] == [70, 71]
    assert [item.fault for item in found[70:72]] == ["undecodable", "missing"]  # type: ignore[union-attr]
    assert "70.png cannot be decoded" in str(found[70])


def test_pictures_are_decoded_a_bounded_number_ahead(
    roots: ImageRoots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 16)
    marks = tmp_path / "marks"
    marks.mkdir()
    with closing(decoded(roots, PATHS, partial(mark, marks), workers=2)) as pictures:
        next(pictures)
        time.sleep(0.5)
        # Four jobs of four ahead, and the one that was taken.
        assert len(list(marks.iterdir())) == 20


def test_workers_are_not_started_for_a_few_pictures(roots: ImageRoots) -> None:
    assert [halved(item).shape for item in decoded(roots, PATHS[:3], workers=2)] == [(2, 5, 3), (2, 6, 3), (2, 7, 3)]
    # A lambda cannot be sent to a process, and need not be.
    assert list(decoded(roots, PATHS[:2], lambda picture: picture.size, workers=2)) == [(5, 4), (6, 4)]  # type: ignore[arg-type, return-value]


def test_workers_end_when_the_caller_stops(roots: ImageRoots) -> None:
    import multiprocessing

    with closing(decoded(roots, PATHS, workers=2)) as pictures:
        next(pictures)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


class WithModel:
    """What a retriever looks like whose method would take its weights along."""

    def __init__(self) -> None:
        self.weights = np.zeros(1 << 25, dtype=np.uint8)

    def prepare_image(self, picture: Image.Image) -> Any:
        return np.asarray(picture)


@pytest.mark.parametrize("prepare", [WithModel().prepare_image, lambda picture: np.asarray(picture)])
def test_what_cannot_be_sent_to_workers_is_refused(roots: ImageRoots, prepare: Any) -> None:
    with pytest.raises(M2KRError, match=r"prepare_image cannot be sent to the processes .* --workers 0"):
        next(decoded(roots, PATHS, prepare, workers=2))


def test_a_worker_that_is_killed_is_an_error_with_its_remedy(roots: ImageRoots) -> None:
    with pytest.raises(M2KRError, match="a process that decodes pictures ended, most likely for lack of memory"):
        list(decoded(roots, PATHS, end_process, workers=2))


KILLED = """
import os, sys, time
from pathlib import Path
from m2kr.evaluate.encode import decoded
from m2kr.images.roots import ImageRoots

if __name__ == "__main__":
    import multiprocessing
    pictures = decoded(ImageRoots([Path(sys.argv[1])]), [f"{number}.png" for number in range(90)], workers=2)
    next(pictures)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_with_an_evaluation_that_is_killed(roots: ImageRoots, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "script.py"), str(roots.folders[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as parent:
        assert parent.stdout is not None
        workers = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(_runs(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(worker) for worker in workers)


def _runs(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # nobody may be there to reap it
