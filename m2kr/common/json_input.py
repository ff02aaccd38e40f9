"""JSON that others wrote: checked for size, depth, numbers and types before anything is made of it.

Raw records, result files, manifests, configurations of models, notes of interrupted work: all of it comes in here, so
that a damaged file is told in one line that names it.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from m2kr.errors import M2KRError, first_line

_T = TypeVar("_T")

MAX_DEPTH = 64
"""Lists and objects within each other. No release and no model's file has more than a dozen, and some parsers take
memory that grows with the square of the depth."""

MAX_FILE_BYTES = 1 << 28
"""Of a file that is read whole. The largest known are tokenizers of some 30 MB; objects take ten times as much."""

HALF_A_PAIR = "a text holds half a surrogate pair, which is no character"
"""What is wrong with a string that cannot be written as UTF-8."""

_SLICE = 1 << 20
_KINDS = {"str": "a string", "int": "a whole number", "float": "a number", "array": "a list", "object": "an object"}


class NestingError(ValueError):
    """Lists and objects are nested more deeply than `MAX_DEPTH`."""


class NestingGuard:
    """Looks at a JSON text, block by block and before any parser does, for lists and objects nested too deeply."""

    _IN_TEXTS = bytes(set(range(256)) - set(b'"[]{}'))
    _STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._carry = b""

    def feed(self, block: bytes) -> None:
        """Look at the next bytes, a few megabytes at most.

        Raises:
            NestingError: more than `MAX_DEPTH` lists and objects are open.
        """
        block = self._carry + block
        backslashes = len(block) - len(block.rstrip(b"\\"))
        self._carry = b"\\" if backslashes % 2 else b""  # what it escapes comes with the next block
        if b"\\" in block:
            block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        marks = block.translate(None, self._IN_TEXTS)
        if self._in_text:
            marks = b'"' + marks  # where it began
        brackets = marks.translate(None, b'"')
        quotes = len(marks) - len(brackets)
        self._in_text = quotes % 2 == 1
        if self._in_text:
            marks += b'"'
        if 2 * marks.count(b'""') < quotes:  # some text holds brackets: to leave these out takes five times as long
            brackets = b"".join(marks.split(b'"')[::2])
        opening = brackets.count(b"[") + brackets.count(b"{")
        if self._depth + opening > MAX_DEPTH:
            import numpy as np  # 0.1 s, and most texts have few brackets

            depths = np.cumsum(np.frombuffer(brackets.translate(self._STEPS), np.int8), dtype=np.int32)
            if self._depth + int(depths.max()) > MAX_DEPTH:
                raise NestingError(f"nested too deeply: more than {MAX_DEPTH} lists and objects within each other")
        self._depth += 2 * opening - len(brackets)


def check_depth(text: str) -> None:
    """Check that a JSON text is not nested too deeply.

    Raises:
        NestingError: it is.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    guard = NestingGuard()
    for start in range(0, len(text), _SLICE):
        guard.feed(text[start : start + _SLICE].encode("utf-8", "surrogatepass"))


def _whole(text: str) -> int | float:
    # Beyond 64 bits a number is a float, of which no key of ours is. Tokenizers of transformers say 10^30 for no limit.
    return value if len(text) <= 20 and -(1 << 63) <= (value := int(text)) < 1 << 63 else _real(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text:.30} is out of range")
    return value


# NaN and Infinity, which Python writes although JSON does not know them, are read as null.
_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_real, parse_constant=lambda _: None)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text: numbers are finite, integers of more than 64 bits floats, NaN and Infinity null.

    Raises:
        ValueError: with the reason, where it is no JSON, is nested deeper than `MAX_DEPTH`, holds a number out of
            range, or cannot be written as UTF-8.
    """
    try:
        check_depth(text)
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON ({error.msg})") from None
    except ValueError as error:
        raise ValueError(f"invalid JSON ({error})") from None
    if ("\\ud" in text or "\\uD" in text) and not is_text(value):  # half a surrogate pair may be escaped
        raise ValueError(HALF_A_PAIR)
    return value


def is_text(value: object) -> bool:
    """Whether all strings of a JSON value can be written: a lone surrogate, which JSON can spell, cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, TypeError, ValueError):
        return False
    return True


def as_record(value: Any, kind: type[_T]) -> _T:
    """Return a JSON value as a type that msgspec knows (a Struct, a TypedDict, ``dict[str, int]``, ...).

    Raises:
        ValueError: with the reason, where it is not as the type says: "image is missing", "turns[3] is not an object".
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_reason(str(error), kind)) from None


def _reason(message: str, kind: type) -> str:
    """Return what msgspec says of a value ("Expected `str`, got `int` - at `$.image`") in words for people."""
    what, _, place = message.partition(" - at `$")
    place = place.strip(".`")
    if missing := re.match(r"Object missing required field `(.+)`", what):
        return f"{place}.{missing[1]} is missing".lstrip(".")
    if not place and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"it is not an object with {', '.join(field.encode_name for field in msgspec.structs.fields(kind))}"
    place = place or "it"
    if "matching regex" in what or "of length >= 1" in what:
        return f"{place} is empty"
    if expected := re.match(r"Expected `([a-z |]+)`( of length \d+)?", what):
        names = expected[1].removeprefix("int | " if "float" in expected[1] else "").split(" | ")
        return f"{place} is not {' or '.join(_KINDS.get(name, name) for name in names)}{expected[2] or ''}"
    return f"{place}: {what[0].lower()}{what[1:]}"


def read_text(path: Path) -> str:
    """Return the text of a file that others wrote, of `MAX_FILE_BYTES` at most.

    Raises:
        ValueError: with the reason, where it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(min(path.stat().st_size, MAX_FILE_BYTES) + 1)
            content += file.read(MAX_FILE_BYTES + 1 - len(content)) if len(content) <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise ValueError(error.strerror or first_line(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start:,}") from None


def read_json(path: Path, kind: type[_T], what: str, remedy: str) -> _T:
    """Return what a JSON file holds, as a type that msgspec knows.

    Args:
        path: the file.
        kind: the type.
        what: the file is to be, such as "manifest of this program", for the message.
        remedy: a sentence, for the message.

    Raises:
        M2KRError: the file cannot be read, is too large, is no JSON as `parse_json` has it, or holds something else;
            the message names the file and the key.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise M2KRError(f"{path} could not be read ({error}). {remedy}") from error
    try:
        return as_record(parse_json(text), kind)
    except ValueError as error:
        raise M2KRError(f"{path} is no {what}: {error}. {remedy}") from error
