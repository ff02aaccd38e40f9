"""Giving freed memory back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os, pathlib, sys
from m2kr.common.memory import give_back, keep_freed

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

keep_freed()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resident()
blocks = [libc.malloc(1 << 20) for _ in range(100)]
last = libc.malloc(1 << 20)  # above the others, so that they are no end of the heap that could be cut off
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
for block in blocks:
    libc.free(block)
kept = resident() - before
give_back()
print(kept >> 20, resident() - before >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    try:
        found = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        if "libc.so.6" in error.stderr:
            pytest.skip("the C library is not glibc")
        raise
    kept, left = map(int, found.stdout.split())
    assert kept >= 90
    assert left <= 20
