"""A retriever and a reader for processes elsewhere. Empty files beside it say what it is to do to its process."""

from __future__ import annotations

import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from m2kr.reader import Answer

HERE = Path(__file__).parent


class Hashing:
    """A few vectors a text, of its last words' hashes, and one of the picture's pixels.

    The first words of queries are those of the instruction, the same for all of MS MARCO.
    """

    name = "hashing"
    reads = frozenset({"text", "image"})
    vectors = "multi"
    reads_instructions = True

    def __init__(self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        self.settings: dict[str, Any] = {}

    def encode_query(self, inputs: Any, batch_size: int = 32) -> list[np.ndarray]:
        return [self._vectors(item) for item in inputs]

    def encode_document(self, inputs: Any, batch_size: int = 32) -> list[np.ndarray]:
        made = [self._vectors(item) for item in inputs]
        if len(inputs) > 500:  # a chunk, and not the sample before
            self._obey(made)
        return made

    def _vectors(self, item: Any) -> np.ndarray:
        text = item if isinstance(item, str) else item["text"]
        words = [zlib.crc32(word.encode()) for word in text.split()[-6:]] or [1]
        if not isinstance(item, str):
            words.append(zlib.crc32(np.asarray(item["image"]).tobytes()))
        angles = np.outer(np.array(words, dtype=np.float64) % 9973, np.arange(1, 9))
        vectors: np.ndarray = np.sin(angles).astype(np.float32)
        return vectors

    def _obey(self, made: list[np.ndarray]) -> None:
        """Do what the test wants, once, in one of the processes."""
        for what in ("kill-actor", "kill-node", "wait", "not-finite"):
            # One dies with its node and one without, each at the first passages that it gets.
            if what == ("kill-node" if _of_the_head() else "kill-actor"):
                continue
            try:
                (HERE / what).rename(HERE / f"{what}.done")
            except OSError:
                continue
            if what == "kill-actor":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "kill-node":
                os.kill(os.getppid(), signal.SIGKILL)  # its raylet, which takes this process along
                time.sleep(60)
            elif what == "wait":
                time.sleep(600)
            else:
                made[7][0, 0] = np.nan


def _of_the_head() -> bool:
    """Whether this process is one of the first node."""
    return "--head" in psutil.Process(os.getppid()).cmdline()


class Answering:
    """Tells how bright the picture is."""

    name = "answering"
    reads = frozenset({"text", "image"})

    def __init__(self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        self.settings: dict[str, Any] = {}

    def answer(self, asked: Any, batch_size: int = 8) -> list[Answer]:
        return [Answer(f"{np.asarray(item.image).mean():.3f}", -0.5) for item in asked]
