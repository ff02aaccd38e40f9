"""Pictures read by name out of a .tar.gz: time to the first one, reads a second, disk and memory, beside unpacking.

    make bench     or     python -m pytest tests/benchmarks/test_archives.py --override-ini addopts= -s

The archive is made of JPEG pictures of noise, which gzip hardly shrinks; M2KR_BENCH_BYTES says how large (50,000,000 by
default). Ways whose library is not installed are skipped. Each runs twice in fresh processes: with nothing kept from
before, and again with what the first kept. Nothing here asserts a time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BYTES = int(os.environ.get("M2KR_BENCH_BYTES", 50_000_000))
READS = 100
SCRIPT = Path(__file__).with_name("archive_reads.py")
WAYS = {
    "m2kr, unpacked": "",
    "m2kr, in place": "indexed_gzip",
    "indexed_gzip 1 MiB": "indexed_gzip",
    "indexed_gzip 4 MiB": "indexed_gzip",
    "rapidgzip": "rapidgzip",
    "copies 4 MiB": "",
}

found: dict[str, list[float]] = {}  # by way, in the order of the table's columns


def jpeg(number: int) -> bytes:
    chance = np.random.default_rng(number)
    small = chance.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
    grain = chance.integers(-12, 13, (480, 640, 3))
    noisy = np.clip(np.asarray(picture).astype(np.int16) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file := io.BytesIO(), "JPEG", quality=75)
    return file.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The archive, and the list of pictures to read."""
    folder = tmp_path_factory.mktemp("archive")
    path, listed = folder / "pictures.tar.gz", []
    kept = [jpeg(number) for number in range(64)]  # deflate sees 32 KiB, and so no repeats
    chance, done = random.Random(0), 0
    with tarfile.open(path, "w:gz", compresslevel=6) as tar:
        while done < BYTES:
            content = chance.choice(kept)
            member = tarfile.TarInfo(f"pictures/{len(listed):07d}.jpg")
            member.size = len(content)
            start = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(content))
            done += len(content)
            listed.append([member.name, start, len(content), hashlib.sha256(content).hexdigest()])
    wanted = folder / "wanted.json"
    wanted.write_text(json.dumps(chance.choices(listed, k=READS)), encoding="utf-8")
    print(f"\n{len(listed):,} pictures, {done:,} bytes; {path.stat().st_size:,} as .tar.gz")
    yield path, wanted
    if found:
        print("seconds and, behind the stroke, those of the processor")
        print(f"{'':20} {'first picture':>15} {'again':>15} {'ms a read':>15}  disk MB  peak MiB")
        for way, columns in found.items():
            first, again, each = (f"{columns[at]:.3g} / {columns[at + 1]:.3g}" for at in (0, 2, 4))
            print(f"{way:20} {first:>15} {again:>15} {each:>15} {columns[6] / 1e6:8.1f} {columns[7] / 2**20:9.0f}")


@pytest.mark.benchmark(group="tar.gz")
@pytest.mark.parametrize("way", WAYS)
def test_reading(benchmark, measure, archive: tuple[Path, Path], tmp_path: Path, way: str) -> None:
    if WAYS[way] and find_spec(WAYS[way]) is None:
        pytest.skip(f"{WAYS[way]} is not installed")
    path, out = tmp_path / archive[0].name, tmp_path / "told.json"
    path.symlink_to(archive[0])  # what ours keeps lies beside the link
    command = [str(SCRIPT), way, str(path), str(archive[1]), str(tmp_path / "index"), str(out)]
    _, peak = benchmark.pedantic(measure, (command,), rounds=1)
    first = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    disk = sum(file.stat().st_size for file in tmp_path.iterdir() if not file.is_symlink())
    _, other_peak = measure(command)
    again = json.loads(out.read_text(encoding="utf-8"))
    assert (first["right"], again["right"]) == (True, True)
    each = [1_000 * again[name] / (READS - 1) for name in ("reads", "reads_cpu")]
    times = [run[name] for run in (first, again) for name in ("first", "first_cpu")]
    found[way] = [*times, *each, disk, max(peak, other_peak)]
    benchmark.extra_info["ms_a_read"] = round(each[0], 1)
