"""Raw JSON records, turned into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import msgspec

from m2kr.common.json_input import HALF_A_PAIR, is_text
from m2kr.parsing.json_files import Element
from m2kr.parsing.rows import BadRow

Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
"""A string that says something."""


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
