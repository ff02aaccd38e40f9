"""What source modules share: the options of their rules, and how the module of a task is found.

A source module turns the raw files of a release into the tables of a task. It has ``Options``, a frozen dataclass with
one field for every rule that the published benchmark leaves open (its ``metadata`` says what the field does and on what
evidence the default rests), and ``build(raw, options, seed)``, which returns lazy `m2kr.parsing.releases.Tables`.

``build`` raises `MissingFilesError` where a file, or the other half of a row, is missing and that is not allowed, and
`BadRowsError` where a record cannot be used and such records are not to be skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, get_type_hints

from m2kr.common.cli import LARGEST
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS


def source_of(task: str) -> ModuleType:
    """Return the module that builds ``task``, imported when it is asked for."""
    return import_module(TASKS[task].source)


def choice(default: Any, does: str, evidence: str, among: tuple[str, ...] = ()) -> Any:
    """Declare an option: its default, what it does, and the evidence for the default.

    Args:
        default: the default value; its type is the option's.
        does: one sentence.
        evidence: why this default, or that it is ours.
        among: the values allowed, for a string option.
    """
    return dataclasses.field(default=default, metadata={"does": does, "evidence": evidence, "among": among})


def make_options(task: str, given: dict[str, Any]) -> Any:
    """Return the ``Options`` of a task with ``given`` (strings, or values of the right type) in place of defaults.

    Raises:
        M2KRError: there is no such option, or the value does not fit it.
    """
    options = source_of(task).Options
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints = get_type_hints(options)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            known = ", ".join(fields)
            raise M2KRError(f"{task} has no option {name!r}.{did_you_mean(name, list(fields))} It has: {known}.")
        among = fields[name].metadata["among"]
        convert: Callable[[Any], Any] = _to_bool if hints[name] is bool else hints[name]
        try:
            values[name] = convert(value)
        except (TypeError, ValueError, OverflowError):
            wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(hints[name], "text")
            raise M2KRError(f"option {task}.{name} is {value!r}; it wants {wanted}.") from None
        if among and values[name] not in among:
            raise M2KRError(f"option {task}.{name} is {value!r}; it wants one of {', '.join(among)}.")
        if hints[name] in (int, float) and not 0 <= values[name] <= LARGEST:
            raise M2KRError(f"option {task}.{name} is {value!r:.40}; it has to be a number from 0 to {LARGEST:,}.")
    return options(**values)


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).casefold() in ("true", "yes", "1"):
        return True
    if str(value).casefold() in ("false", "no", "0"):
        return False
    raise ValueError(value)
