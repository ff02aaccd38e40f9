"""Vectors in 8 bits, a quarter of the disk of float32.

Every vector has a scale of its own, the largest of its absolute numbers divided by 127, and its numbers are stored as
the nearest multiples of that. So a number comes back within half a scale, 1/254 of the largest one, and the dot product
with a vector q within scale / 2 * (sum of the absolute numbers of q). Zero stays zero.
`m2kr.evaluate.quantisation` measures what that does to retrieval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SMALLEST = np.finfo(np.float32).tiny  # of the scales: none is 0, or so small that some processors take it for 0


def quantise(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return finite vectors, shape (n, dim), as int8 of that shape and float32 scales of shape (n,).

    Numbers below 6e-39, half the smallest scale, become 0.
    """
    largest = np.maximum(vectors.max(axis=1, initial=0), -vectors.min(axis=1, initial=0))
    scales = np.maximum(largest / np.float32(127), _SMALLEST)
    multiples = vectors / scales[:, None]
    return np.rint(multiples, out=multiples).astype(np.int8), scales


def widen(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what `quantise` made into 8 bits, shape (n, dim), float32."""
    vectors = values.astype(np.float32)
    vectors *= scales[:, None]
    return vectors
