"""Decoding one picture to RGB, and what can be wrong with it: missing, truncated, undecodable, too large."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m2kr.errors import M2KRError, first_line
from m2kr.images.archives import MAX_MEMBER_BYTES

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused: a few kilobytes of file can stand for gigabytes of them."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pillow knows dozens more, some of which start other programs (PostScript), and no release has pictures of theirs.

Fault = Literal["missing", "outside", "undecodable", "truncated", "too many pixels", "unreadable"]
"""What can be wrong with an image."""


class ImageError(M2KRError):
    """An image is not there, or cannot be decoded.

    Attributes:
        fault: what is wrong, in a word.
        reason: the same in a few, without the name of the file.
    """

    def __init__(self, message: str, fault: Fault = "missing", reason: str = "") -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.reason = reason


@dataclass(frozen=True)
class ImageFile:
    """An image that was found.

    Attributes:
        name: where, for messages.
        size: bytes; -1 where only reading tells.
        read: returns its content.
        path: the file itself, unless it is within an archive.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    path: Path | None = None

    def __str__(self) -> str:
        return self.name


def decode(file: ImageFile) -> Image:
    """Return an image, decoded to RGB.

    Raises:
        ImageError: it cannot be decoded, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if file.size > MAX_MEMBER_BYTES:
        reason = f"{file.size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
        raise ImageError(f"{file} has {reason}: no picture.", "undecodable", reason)
    try:
        with Image.open(io.BytesIO(file.read()), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                reason = f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                raise ImageError(f"{file} has {reason}.", "too many pixels", reason)
            converted = image.convert("RGB")
            # Pillow 13 keeps the colour of a transparent palette entry, and whoever looks at it afterwards takes all
            # pixels of that colour for transparent.
            converted.info.pop("transparency", None)
            return converted
    except ImageError:
        raise
    except M2KRError as error:
        raise ImageError(str(error), "unreadable", "it cannot be read from its archive") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{file} has too many pixels ({error}).", "too many pixels", str(error)) from error
    except Exception as error:  # of broken files, decoders raise ValueError, RuntimeError and more
        # Of a file that is no image, its own words name a buffer of ours.
        reason = "cannot identify image file" if isinstance(error, UnidentifiedImageError) else first_line(error)
        cut = re.search(r"truncated|unexpected end|not enough", reason, re.IGNORECASE)
        raise ImageError(
            f"{file} cannot be decoded as an image ({reason}). Get the file again.",
            "truncated" if cut else "undecodable",
            reason,
        ) from error
