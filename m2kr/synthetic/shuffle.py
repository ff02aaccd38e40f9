"""A permutation of numbers that is computed, not stored."""

from __future__ import annotations

import math
import random


class Shuffle:
    """A permutation of 0..size-1: `at` and its inverse `find` take constant memory.

    Four rounds of a Feistel network over the next even number of bits; numbers that fall outside are sent round again.
    """

    def __init__(self, size: int, key: str) -> None:
        """Make the permutation of ``size`` numbers that belongs to ``key``."""
        rng = random.Random(f"shuffle/{key}")
        self._size = size
        self._half = max(1, math.ceil((size - 1).bit_length() / 2))
        self._mask = (1 << self._half) - 1
        self._keys = [rng.getrandbits(32) for _ in range(4)]

    def _mix(self, value: int, key: int) -> int:
        value = ((value ^ key) * 0x9E3779B1) & 0xFFFFFFFF
        value = ((value ^ (value >> 15)) * 0x85EBCA77) & 0xFFFFFFFF
        return (value ^ (value >> 13)) & self._mask

    def at(self, index: int) -> int:
        """Return the number at position ``index``."""
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                left, right = right, left ^ self._mix(right, key)
            index = left << self._half | right
            if index < self._size:
                return index

    def find(self, value: int) -> int:
        """Return the position of ``value``."""
        while True:
            left, right = value >> self._half, value & self._mask
            for key in reversed(self._keys):
                left, right = right ^ self._mix(left, key), left
            value = left << self._half | right
            if value < self._size:
                return value
