#!/usr/bin/env bash
# indexed_gzip 1.10.3: with restart points further apart, a small read takes many times as many bytes of the archive.
#
# Guess: a read begins at the restart point before it and ends where enough is inflated, so with points 4 MiB apart it
# takes 2 MiB of the archive on average, and one right behind a point next to nothing.
# Seen: IndexedGzipFile fills a buffer of four times the spacing before it gives a byte out. With points 1 MiB apart, a
# byte takes 5 MiB of the archive, and with points 4 MiB apart 20 MiB. With a buffer_size of 64 KiB it is 1 and 5 MiB.
. "$(dirname "$0")/lib/environment.sh"
run_with 'indexed-gzip==1.10.3' <<'PY'
import gzip
import io
import random
import tempfile
from pathlib import Path

from indexed_gzip import IndexedGzipFile

MIB = 1 << 20


class Counting(io.BytesIO):
    """A file that counts the bytes read of it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.count += size
        return size


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "noise.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(64 * MIB), 1))
    taken = {}
    for spacing in (1, 4):
        for buffer in (None, 65536):
            index = Path(folder) / f"{spacing}"
            with IndexedGzipFile(str(path), spacing=spacing * MIB) as file:
                file.build_full_index()
                file.export_index(str(index))
            counting = Counting(path.read_bytes())
            options = {} if buffer is None else {"buffer_size": buffer}
            with IndexedGzipFile(fileobj=counting, index_file=str(index), spacing=spacing * MIB, **options) as file:
                before = counting.count
                file.seek(20 * MIB + 1000)
                file.read(1)
                taken[spacing, buffer] = (counting.count - before) / MIB
    print({f"spacing {s} MiB, buffer_size {b}": f"{mib:.1f} MiB read for a byte" for (s, b), mib in taken.items()})
    assert 4 < taken[1, None] < 6 and 16 < taken[4, None] < 24, taken
    assert taken[1, 65536] < 2 and taken[4, 65536] < 6, taken
PY
