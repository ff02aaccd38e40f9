"""`m2kr.images.query_pictures`: pictures decoded in order, by other processes too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2kr.errors import M2KRError
from m2kr.images import query_pictures
from m2kr.images.decode import ImageError
from m2kr.images.query_pictures import decoded
from m2kr.images.roots import ImageRoots

COUNT = 90


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
    monkeypatch.setattr(query_pictures, "_AHEAD", 16)
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
from m2kr.images.query_pictures import decoded
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
