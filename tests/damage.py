"""A seeded generator of damage: to bytes of any file, and to what a JSON file says."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from m2kr.common.json_input import MAX_DEPTH

ODD: list[Any] = [
    *(None, True, "", "x", "../../x", "\x00", "²", "a" * 300, 0, -1, 0.5, 1e308, 2**31, 2**63 - 1),
    *([], [None], {}, {"": None}, [[]], {"a": {"a": []}}),
]
_RAW = ["1" + "0" * 400, "1e400", "-1e400", "NaN", '"\\ud800"', "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "}"]
_MARK = "a mark that no file holds"


def damaged_json(text: str, random: Random) -> bytes:
    """Return a JSON text with one fault: a value of another kind, a key less, a number out of range, bytes cut."""
    if random.random() < 0.15:
        return damaged_bytes(text.encode(), random)
    value = json.loads(text)
    holders = [holder for holder in _walk(value) if holder]
    if not holders or random.random() < 0.05:
        return json.dumps(random.choice(ODD)).encode()
    holder = random.choice(holders)
    key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    kind = random.random()
    if kind < 0.2:
        del holder[key]
    elif kind < 0.3 and isinstance(holder, dict):
        holder[random.choice(["", "x", "../x", "K" * 300])] = holder.pop(key)
    elif kind < 0.8:
        holder[key] = random.choice(ODD)
    else:
        holder[key] = _MARK
    return json.dumps(value).replace(json.dumps(_MARK), random.choice(_RAW)).encode("utf-8", "surrogatepass")


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """Return bytes that were cut, repeated, overwritten, or of which a bit is another."""
    at = random.randrange(len(data) + 1)
    size = random.choice([1, 2, 8, 64, 4096])
    kind = random.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + size :]
    if kind == 2:
        return data[: at + size] + data[at:]
    if kind == 3:
        return data[:at] + random.randbytes(size) + data[at + size :]
    if kind == 4:
        return data[:at] + bytes(size) + data[at + size :]
    flipped = bytearray(data or b"\0")
    flipped[at % len(flipped)] ^= 1 << random.randrange(8)
    return bytes(flipped)


def _walk(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [] if inner is None else [value, *(holder for item in inner for holder in _walk(item))]
