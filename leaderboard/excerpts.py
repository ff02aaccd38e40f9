"""Excerpts of passages with the answers in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

EXCERPT = 520
"""Characters of a passage that are shown."""

_BEFORE = 140
# Characters shown in front of the first answer of a long passage.


class TextPart(NamedTuple):
    """A piece of text, and whether it is an answer."""

    text: str
    answer: bool


def excerpt(text: str, answers: Iterable[str], length: int = EXCERPT) -> tuple[list[TextPart], bool]:
    """Return an excerpt around the first answer, or the beginning, and whether the whole text holds an answer.

    An answer is found as `m2kr.metrics.contains_answer` finds it: lower-cased and stripped, as a substring.

    Args:
        text: a passage.
        answers: accepted answers; empty ones never match.
        length: characters at most, without the dots that say where text was left out.
    """
    spans = _spans(text, answers)
    start = 0
    if len(text) > length and spans and spans[0][1] > length:
        start = min(max(0, spans[0][0] - _BEFORE), len(text) - length)
    end = min(len(text), start + length)
    if end < len(text):
        end = max(text.rfind(" ", start, end), *(high for _, high in spans if high <= end), start + length // 2)
    if start:
        start = max(start, text.find(" ", start, spans[0][0]) + 1)
    parts = [TextPart("… ", False)] if start else []
    place = start
    for low, high in spans:
        low, high = max(low, start), min(high, end)
        if low >= high:
            continue
        if low > place:
            parts.append(TextPart(text[place:low], False))
        parts.append(TextPart(text[low:high], True))
        place = high
    if place < end:
        parts.append(TextPart(text[place:end], False))
    if end < len(text):
        parts.append(TextPart(" …", False))
    return parts, bool(spans)


def _spans(text: str, answers: Iterable[str]) -> list[tuple[int, int]]:
    """Return where answers stand, in order, those that touch or overlap joined."""
    lowered = text.lower()
    origin: list[int] | None = None
    if len(lowered) != len(text):  # some capitals have no small letter of one character
        origin = [number for number, character in enumerate(text) for _ in character.lower()]
    found = []
    for needle in {answer.strip().lower() for answer in answers} - {""}:
        place = lowered.find(needle)
        while place >= 0:
            last = place + len(needle) - 1
            found.append((place, last + 1) if origin is None else (origin[place], origin[last] + 1))
            place = lowered.find(needle, place + len(needle))
    joined: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined
