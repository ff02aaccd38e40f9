"""Settings in TOML files, read into dataclasses whose field types say what is allowed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from m2kr.common.cli import LARGEST
from m2kr.common.options import parse_pairs
from m2kr.errors import M2KRError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        M2KRError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise M2KRError(f"{path} could not be read ({error.strerror}): name a file of settings.") from error
    except ValueError as error:
        raise M2KRError(f"{path} is no TOML ({error}): correct it there.") from error


def read_settings(kind: type[Settings], path: Path, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a TOML file, as a dataclass.

    Args:
        kind: the dataclass; types may have bounds, as ``Annotated[int, msgspec.Meta(ge=1)]``. A table within is a
            ``msgspec.Struct`` with ``forbid_unknown_fields``.
        path: of the file; what it leaves out has its default.
        changes: values that go before those of the file.

    Raises:
        M2KRError: the file cannot be read, lacks a value, or has a name or a value that cannot be.
    """
    values = {**read_toml(path), **(changes or {})}
    try:
        return to_settings(kind, values)
    except M2KRError as error:
        raise M2KRError(f"{path}: {error}") from error


def to_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return a table of settings as a dataclass; see `read_settings`.

    Raises:
        M2KRError: a name is unknown, a value is missing or cannot be.
    """
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise M2KRError(f"there is no setting {name!r}.{did_you_mean(name, known)}")
    needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    if lacking := [name for name in needed if name not in values]:
        raise M2KRError(f"it does not say {', '.join(lacking)}: add it.")
    _check_numbers(values)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        names, value = [], values
        for name in re.split(r"\.|(?=\[)", place.rstrip("`")):
            if name.startswith("["):  # an item, whose name is not told
                break
            names.append(name)
            value = value[name]
        hint = get_type_hints(kind)[names[0]]
        if get_origin(hint) is Literal:
            reason = f"It is one of {', '.join(map(str, get_args(hint)))}"
        raise M2KRError(f"{'.'.join(names)} is {value!r}. {reason}.") from error


def _check_numbers(value: Any, name: str = "") -> None:
    """Refuse NaN, infinity, and numbers that fit no integer of 32 bits, which is what seeds and counts end up in."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_numbers(item, name)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise M2KRError(f"{name} is {value}. It has to be a number of {LARGEST:,} at most.")


def parse_changes(values: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``--set NAME=VALUE``: the value as TOML, or else as text.

    Tasks are also taken as ``tasks=EVQA,OKVQA`` (equal shares), and ``validate`` likewise.

    Raises:
        M2KRError: one has no "=", or a name stands twice.
    """
    changes: dict[str, Any] = {}
    for name, text in parse_pairs("--set", values).items():
        try:
            changes[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name] = text
        if isinstance(changes[name], str) and name in ("tasks", "validate"):
            keys = [key for key in changes[name].split(",") if key]
            changes[name] = dict.fromkeys(keys, 1.0) if name == "tasks" else keys
    return changes
