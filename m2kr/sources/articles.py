"""Which blocks of a Wikipedia article hold an answer: as a string, or else as a number close to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import polars as pl

_PLAIN = r"\d+"
_SEPARATED = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"


class Articles:
    """The blocks of some articles, and which of them hold an answer.

    Args:
        blocks: id, title and content.
        fold: brings titles to the form in which they are compared.
        most: blocks of an article that count at most, the first ones.
        tolerance: how far a number in a block may be from the answer's.
        separators: whether 1,234 is one number.
    """

    def __init__(
        self, blocks: pl.DataFrame, fold: Callable[[str], str], *, most: int, tolerance: float, separators: bool
    ) -> None:
        self.fold = fold
        self.tolerance = tolerance
        self.separators = separators
        self.key = str(blocks.hash_rows().sum())
        self.by_title: dict[str, list[str]] = {}
        self.content: dict[str, str] = {}
        self.lowered: dict[str, str] = {}
        for block, title, text in blocks.sort("id").select("id", "title", "content").iter_rows():
            related = self.by_title.setdefault(fold(title), [])
            if len(related) < most:
                related.append(str(block))
                self.content[str(block)], self.lowered[str(block)] = text, text.lower()
        # The same question is asked of many pictures of one entity.
        self.positives = lru_cache(maxsize=20_000)(self._positives)

    def related(self, entity: str) -> list[str]:
        """Return the ids of an entity's blocks, in the order of its article."""
        return self.by_title.get(self.fold(entity), [])

    def _positives(self, entity: str, strings: tuple[str, ...], value: float | None) -> tuple[list[str], bool]:
        """Return the related blocks that hold a string of ``strings``, else the number; and whether by number."""
        related = self.related(entity)
        lowered = [text.lower() for text in strings]
        found = [block for block in related if any(text in self.lowered[block] for text in lowered)]
        if found or value is None:
            return found, False
        return [block for block in related if self.holds_number(self.content[block], value)], True

    def holds_number(self, text: str, value: float) -> bool:
        """Return whether a text holds a number as close to ``value`` as it has to be."""
        return any(abs(number - value) <= self.tolerance for number in numbers_in(text, separators=self.separators))


def numbers_in(text: str, *, separators: bool) -> list[float]:
    """Return the numbers of a text: whole or decimal, with a sign where none stands between two words or numbers.

    Args:
        text: the text.
        separators: whether 1,234 is one number.
    """
    whole = _SEPARATED if separators else _PLAIN
    matches = re.findall(rf"(?<![\w.])([-−]?)((?:{whole})(?:\.\d+)?)", text)
    return [float(digits.replace(",", "")) * (-1 if sign else 1) for sign, digits in matches]
