"""What the C library's and Arrow's allocators keep of freed memory: how much, and when it goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


def keep_freed() -> None:
    """Let glibc keep what is freed until `give_back`, where it is the C library.

    Files are read in blocks of megabytes, and asking the system for each anew takes a quarter of the reading time.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most it takes


def give_back() -> None:
    """Give freed memory back to the system: some hundred megabytes, after a large file has been parsed."""
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
