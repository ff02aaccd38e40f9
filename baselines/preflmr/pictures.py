"""What is made of a picture before PreFLMR encodes it: the whole, or the whole and a grid of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from baselines.common.clip_pixels import ClipPixels, Pixels
from m2kr.images.decode import to_rgb

MissingImage = Literal["black", "none"]
Regions = Literal["whole", "grid"]

_GRID = 3


@dataclass(frozen=True)
class Pictures:
    """How pictures are prepared. It pickles to a few hundred bytes.

    Attributes:
        pixels: how CLIP reads a picture.
        regions: "whole" for the picture as it is. "grid" for the whole and its nine parts, three by three, row by row,
            each prepared like a picture of its own. The regions of the official FLMR come from an object detector,
            whose boxes M2KR does not hold; the grid is a substitute of ours and repeats no published figure.
    """

    pixels: ClipPixels
    regions: Regions = "whole"

    @property
    def number(self) -> int:
        """Regions of a picture."""
        return 1 + _GRID * _GRID if self.regions == "grid" else 1

    def prepare(self, image: Image.Image) -> Pixels:
        """Return what the model sees, before normalisation: uint8 (height, width, 3); (10, height, width, 3) of a grid.

        ``image`` may be of any mode; see `ClipPixels.prepare`.
        """
        image = to_rgb(image)
        whole = self.pixels.prepare(image)
        if self.regions == "whole":
            return whole
        rows, columns = _thirds(image.height), _thirds(image.width)
        parts = [image.crop((left, top, right, bottom)) for top, bottom in rows for left, right in columns]
        return np.stack([whole, *map(self.pixels.prepare, parts)])

    def black(self) -> list[Pixels]:
        """Return a prepared black picture. Its size does not show: the official 336 x 336 pixels give the same."""
        return [np.zeros(self.pixels.shape, dtype=np.uint8)] * self.number


def _thirds(length: int) -> list[tuple[int, int]]:
    """Return where each part of the grid begins and ends; it has a pixel at least."""
    begins = [length * part // _GRID for part in range(_GRID + 1)]
    return [(begin, max(begin + 1, end)) for begin, end in pairwise(begins)]
