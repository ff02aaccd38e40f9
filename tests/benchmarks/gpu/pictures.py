"""How many pictures a second the processor makes ready for a model, by how many processes: what a GPU may wait for."""

from __future__ import annotations

import io
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from baselines.common.clip_pixels import ClipPixels
from m2kr.images.query_pictures import decoded
from m2kr.images.roots import parse_roots
from tests.benchmarks.gpu.bench import Bench, Part

SIZE = (640, 480)
"""Of the pictures, as of most of COCO's; JPEGs of a made-up scene."""

_DISTINCT = 32


def parts(bench: Bench) -> dict[str, Part]:
    """One process, then more of them, up to the cores that there are."""
    cores = os.cpu_count() or 1
    numbers = [0] if bench.tiny else [0, *(number for number in (2, 4, 8, 16) if number <= max(2, cores))]
    return {f"{number or 1} process{'es' if number else ''}": partial(_measure, bench, number) for number in numbers}


def _measure(bench: Bench, workers: int) -> dict[str, Any]:
    """Decode and prepare pictures of distinct files, as an evaluation does."""
    bench.need(3, "decoding")
    folder = bench.work / "pictures"
    names = _write(folder, 4 if bench.tiny else _DISTINCT)
    count = 8 if bench.tiny else 200 * max(1, workers)
    paths = [names[row % len(names)] for row in range(count)]
    images = parse_roots([str(folder)])
    start, first = time.perf_counter(), 0.0
    for number, _ in enumerate(decoded(images, paths, ClipPixels().prepare, workers=workers)):
        if number == 0:
            first = time.perf_counter() - start
    took = time.perf_counter() - start
    return {
        "kind": "pictures",
        "count": count,
        "unit": "pictures",
        # Without the time in which the processes start, which an evaluation spends once a task.
        "per_second": (count - 1) / max(took - first, 1e-9),
        "start_seconds": first,
        "workers": workers,
        "size": list(SIZE),
    }


def _write(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.jpg" for number in range(count)]
    rng = np.random.default_rng(0)
    for name in names:
        if not (folder / name).is_file():
            # Coarse noise, blown up, with fine noise over it: about 100 kB each, as photographs have.
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
                SIZE, Image.Resampling.BICUBIC
            )
            fine = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (SIZE[1], SIZE[0], 3), dtype=np.int16)
            buffer = io.BytesIO()
            Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            (folder / name).write_bytes(buffer.getvalue())
    return names
