"""Laying out passages: sorted by length, in tiles of one length, the sizes of which may change on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from m2kr.search.ragged import Ragged


@dataclass
class Sizes:
    """Sizes of layouts. What is changed holds from the next layout on.

    Attributes:
        tile: vectors of a tile, which has as many passages as fit, one at least.
        items: passages of a tile at most.
        layout: vectors after which a layout ends.
    """

    tile: int
    items: int
    layout: int

    def took(self, seconds: float, vectors: int) -> None:
        """Hear how long the multiplication of a layout of so many vectors took."""


@dataclass
class TriedSizes(Sizes):
    """Sizes of which the faster tiles are found out on the first layouts, which are small.

    Which ones are faster depends on more than the size of the caches: on a Xeon of 2 MiB of second-level cache a core,
    products of 1,024 x 1,280 with their maximum took 40% longer than those of 512 x 640; on an AMD EPYC of 1 MiB (Zen
    4) a search with those of 2,048 x 640, as large as the first, takes 9 to 18% less than with those of 512 x 640.

    Attributes:
        choices: vectors of a tile, not tried yet; they take turns.
    """

    choices: tuple[int, ...] = ()
    _seconds: dict[int, float] = field(default_factory=dict)  # for a vector
    _layouts: int = 0
    _later: int = 0

    def __post_init__(self) -> None:
        """Begin with the first choice."""
        self._later = self.layout
        self._next()

    def took(self, seconds: float, vectors: int) -> None:
        """Hear how long the multiplication of a layout of so many vectors took, and choose the tiles of the next."""
        if self.choices:
            self._seconds[self.tile] = min(self._seconds.get(self.tile, seconds / vectors), seconds / vectors)
            self._layouts += 1
            self._next()

    def _next(self) -> None:
        if self._layouts == _TURNS * len(self.choices):
            if self.choices:
                self.tile = min(self.choices, key=self._seconds.__getitem__)
            self.choices, self.layout = (), self._later
            return
        self.tile = self.choices[self._layouts % len(self.choices)]
        self.layout = min(self._later, max(self.choices))


_TURNS = 2  # of each choice


@dataclass(frozen=True)
class Layout:
    """Some passages of a chunk, sorted by length and padded, in tiles of passages of one length.

    Attributes:
        passages: which of the chunk, shape (passages,), int64.
        source: where each vector lies in the chunk, shape (vectors,), int64. Past its end a passage repeats its last.
        tiles: of each, its first vector, its passages and the vectors of each of them. Without any, the passages are
            those that have no vectors.
    """

    passages: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    tiles: list[tuple[int, int, int]]

    @classmethod
    def of(cls, chunk: Ragged, sizes: Sizes, passages: npt.NDArray[np.int64] | None = None) -> Iterator[Layout]:
        """Lay out passages of a chunk, until a layout has as many vectors as it may, and go on in another one.

        Args:
            chunk: passages and their vectors.
            sizes: of what comes next.
            passages: some of them, none of which has more vectors than one before it; without, all.
        """
        order = np.argsort(-chunk.lengths, kind="stable") if passages is None else passages
        first, lengths = chunk.offsets[order], chunk.lengths[order]
        filled = int(np.count_nonzero(lengths))
        longest = lengths.tolist()
        done = 0
        while done < filled:
            start, row = done, 0
            tiles: list[tuple[int, int, int]] = []
            while done < filled and row < sizes.layout:
                length = longest[done]
                members = min(filled - done, max(1, min(sizes.tile // length, sizes.items)))
                tiles.append((row, members, length))
                done += members
                row += members * length
            padded, starts = _places(tiles)
            here = first[start:done]
            source = np.arange(row) + np.repeat(here - starts, padded)
            np.minimum(source, np.repeat(here + lengths[start:done] - 1, padded), out=source)
            yield cls(order[start:done], source, tiles)
        if filled < len(order):
            yield cls(order[filled:], np.empty(0, np.int64), [])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Vectors of each passage with its padding, shape (passages,); none is longer than one before it."""
        return _places(self.tiles)[0]

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first vector of each passage, shape (passages,)."""
        return _places(self.tiles)[1]


def _places(tiles: list[tuple[int, int, int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return, for each passage of some tiles, its vectors with the padding, and the first of them."""
    _, members, lengths = np.array(tiles, np.int64).reshape(-1, 3).T
    padded = np.repeat(lengths, members)
    return padded, np.cumsum(padded) - padded
