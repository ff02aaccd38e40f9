"""Raw JSON records: checked against a `msgspec.Struct`, and turned into rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

import msgspec

from m2kr.parsing.json_files import HALF_A_PAIR, Element, is_text
from m2kr.parsing.rows import BadRow

Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
"""A string that says something."""

_Record = TypeVar("_Record", bound=msgspec.Struct)
_KINDS = {"str": "a string", "int": "a whole number", "float": "a number", "array": "a list", "object": "an object"}


def as_record(value: Any, kind: type[_Record]) -> _Record:
    """Return a JSON value as a record of some kind; fields that it has beside are left out.

    Raises:
        ValueError: with the reason, where it is not as the kind says: "image is missing", "turns[3] is not an object".
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_reason(str(error), kind)) from None


def _reason(message: str, kind: type[msgspec.Struct]) -> str:
    """Return what msgspec says of a value ("Expected `str`, got `int` - at `$.image`") in words for people."""
    what, _, place = message.partition(" - at `$")
    place = place.strip(".`")
    if missing := re.match(r"Object missing required field `(.+)`", what):
        return f"{place}.{missing[1]} is missing".lstrip(".")
    if not place:
        return f"it is not an object with {', '.join(field.encode_name for field in msgspec.structs.fields(kind))}"
    if "matching regex" in what or "of length >= 1" in what:
        return f"{place} is empty"
    if expected := re.match(r"Expected `([a-z |]+)`( of length \d+)?", what):
        names = expected[1].removeprefix("int | " if "float" in expected[1] else "").split(" | ")
        return f"{place} is not {' or '.join(_KINDS.get(name, name) for name in names)}{expected[2] or ''}"
    return f"{place}: {what[0].lower()}{what[1:]}"


def rows_of(
    elements: Iterable[Element],
    parse: Callable[[Any], Iterable[dict[str, Any]]],
    about: Callable[[Any], tuple[str, object]],
) -> Iterator[dict[str, Any] | BadRow]:
    """Yield the rows that ``parse`` makes of each record, with their ``row``, and the bad ones.

    Args:
        elements: of a reader of `m2kr.parsing.json_files`.
        parse: called with a record; raises ValueError with the reason where it cannot be used.
        about: called with a record that cannot be used, whatever it is; its id, and what of it is quoted.
    """
    for element in elements:
        if isinstance(element, BadRow):
            yield element
            continue
        row, record = element
        try:
            made = list(parse(record))
            if not is_text(made):
                raise ValueError(HALF_A_PAIR)
        except ValueError as error:
            name, content = about(record)
            yield BadRow(row, str(error), str(content)[:200], name)
        else:
            yield from ({"row": row, **fields} for fields in made)


def named_by(field: str) -> Callable[[Any], tuple[str, object]]:
    """Return what tells a record by one of its fields ("id 7", or nothing where it has none) and quotes all of it."""
    return lambda record: (
        f"{field} {record[field]}" if isinstance(record, dict) and field in record else "",
        record,
    )
