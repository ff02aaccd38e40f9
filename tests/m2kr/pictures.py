"""A picture that no decoder should take."""

import struct
import zlib


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 8) + b"IDAT" + bytes(12)
