"""Decoding one picture to RGB, and what can be wrong with it: missing, truncated, undecodable, too large."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m2kr.errors import M2KRError, first_line
from m2kr.images.members import MAX_MEMBER_BYTES

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused: a few kilobytes of file can stand for gigabytes of them."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pillow knows dozens more, some of which start other programs (PostScript), and no release has pictures of theirs.

_PNG = b"\x89PNG\r\n\x1a\n"

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


def to_rgb(image: Image, name: object = "the picture") -> Image:
    """Return a picture in RGB, as it was read for the published figures: what is transparent keeps its colour.

    transformers 4.49, of which those figures are, dropped the alpha channel; later versions lay pictures on white. A
    palette's transparent colour, which Pillow 13 still notes after the conversion, is forgotten: else whoever looks at
    the note takes all pixels of that colour, opaque ones too, for transparent. Grey of 16 bits is scaled to 8, and so
    are floats from 0 to 1; ``info["scaled"]`` then says from what. (Pillow clips them, the first to white as a rule,
    the second to black.) The picture given is not changed.

    Args:
        image: of any mode.
        name: what it is called in messages.

    Raises:
        ImageError: its numbers are of a range that nothing tells.
    """
    converted = _in_eight_bits(image, name).convert("RGB")  # a copy, where it is in RGB already
    converted.info.pop("transparency", None)
    return converted


def decode(file: ImageFile) -> Image:
    """Return an image, decoded to RGB as by `to_rgb`.

    Raises:
        ImageError: it cannot be decoded, has too many pixels, or its numbers are of a range that nothing tells.
    """
    from PIL import Image, UnidentifiedImageError

    if file.size > MAX_MEMBER_BYTES:
        reason = f"{file.size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
        raise ImageError(f"{file} has {reason}: no picture.", "undecodable", reason)
    try:
        with _opened(file.read()) as image:
            if image.width * image.height > MAX_PIXELS:
                reason = f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                raise ImageError(f"{file} has {reason}.", "too many pixels", reason)
            return to_rgb(image, file)
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


def _opened(content: bytes) -> Image:
    """Open a picture. A PNG whose profile or texts are too long for Pillow is opened without them."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except ValueError as error:
        if not content.startswith(_PNG) or "too large" not in str(error):
            raise
        return Image.open(io.BytesIO(_without_remarks(content)), formats=_FORMATS)


def _without_remarks(png: bytes) -> bytes:
    """Return a PNG without its colour profile and texts, which no pixel depends on here."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        if kind not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(png[place : place + 12 + size])
        place += 12 + size
    return b"".join(kept)


def _in_eight_bits(image: Image, name: object) -> Image:
    """Return an image of 8 bits a channel: the same one, as a rule."""
    if not image.mode.startswith(("I", "F")):
        return image
    import numpy as np
    from PIL import Image as Images

    values, kind = np.asarray(image), ""
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM") and low >= 0 and high < 1 << 16
    ):
        scaled, kind = values.astype(np.uint16) >> 8, "16 bits"  # as Pillow does of colours of 16 bits
    elif image.mode == "F" and low >= 0 and high <= 1:
        scaled, kind = np.round(values * 255), "floats"
    else:
        reason = f"its pixels are numbers from {low:g} to {high:g}, and nothing says what is white"
        raise ImageError(f"{name}: {reason}. Save it with 8 bits a channel.", "undecodable", reason)
    found = Images.fromarray(scaled.astype(np.uint8))
    found.info["scaled"] = kind
    return found
