"""Options of a command: fields of one frozen dataclass, from which come its parser, settings, results and docs.

A field made by `option` holds everything there is to say of an option: type, default, help, bounds, whether results
depend on it (``in_key``) and whether a result file names it (``in_result``). Classes of options that several commands
share are inherited from.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

LARGEST = (1 << 31) - 1
"""The largest number of an option or a setting: counts and seeds end up in integers of 32 bits."""

MOST_WORKERS = 1024
"""Threads or processes of an option at most. Each holds some of the work at once."""

REQUIRED: Any = dataclasses.MISSING
"""Default of an option that has to be given."""


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What `option` says of a field, beside its name, type and default."""

    does: str | Callable[[], str]
    choices: Sequence[str] = ()
    metavar: str | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    one_of: str | None = None
    positional: bool = False
    several: Literal["repeat", "list"] = "repeat"
    in_key: bool = False
    in_result: bool = False
    prints: Callable[[], str] | None = None
    found: Callable[[argparse.Namespace], Any] | None = None


class _Print(argparse.Action):
    """Print a text in place of running the command, as ``--help`` does."""

    def __init__(self, text: Callable[[], str], **given: Any) -> None:
        super().__init__(nargs=0, **given)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self._text())
        parser.exit()


def option(
    does: str | Callable[[], str],
    default: Any = REQUIRED,
    *,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    one_of: str | None = None,
    positional: bool = False,
    several: Literal["repeat", "list"] = "repeat",
    in_key: bool = False,
    in_result: bool = False,
    prints: Callable[[], str] | None = None,
    found: Callable[[argparse.Namespace], Any] | None = None,
) -> Any:
    """Declare an option as a field of a frozen, keyword-only dataclass.

    The field's type says how a value is read: ``bool`` (a flag), ``int``, ``float``, ``str``, ``Path``, a ``Literal``
    (its choices), any of them with ``| None``, or a ``tuple`` of them for an option that may be given several times.

    Args:
        does: what it does, in a few words; a function where that is not known on import. The default is added.
        default: its value where it is not given.
        choices: the values allowed, for text.
        metavar: what stands for the value in the help.
        least: the smallest number allowed.
        above: a number that it has to exceed.
        most: the largest number allowed; without it, any below `LARGEST`.
        one_of: name of a group of options of which exactly one has to be given.
        positional: it is given without its name.
        several: for a tuple, whether the option is repeated or followed by all values.
        in_key: results depend on it: it is part of the settings that finished work is recognised by.
        in_result: it is named in result files.
        prints: returns a text that a flag prints in place of running the command, whatever else is given.
        found: returns the value for a command that was not given it, from its other arguments and what is there; what
            ``does`` says has to name that default.
    """
    facts = _Facts(
        does, choices, metavar, least, above, most, one_of, positional, several, in_key, in_result, prints, found
    )
    if isinstance(default, list | dict | set):
        raise TypeError(f"the default {default!r} can be changed; give a tuple.")
    return dataclasses.field(default=default, metadata={"option": facts})


def parse(
    options: type[Options], argv: Sequence[str] | None, *, prog: str, description: str, epilog: str | None = None
) -> Options:
    """Return the options that a command was given.

    Args:
        options: the dataclass.
        argv: what follows the command's name; None: that of this process.
        prog: how the command is called, such as "python -m m2kr.build".
        description: what it does, one sentence.
        epilog: examples, shown as they are.

    Raises:
        M2KRError: a number is out of its bounds.
        SystemExit: an option is unknown or lacking, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, options)
    return options_of(options, parser.parse_args(argv))


def add_options(parser: argparse.ArgumentParser, options: type[DataclassInstance]) -> None:
    """Add the options of a dataclass to a parser; those of one group exclude each other."""
    groups: dict[str, Any] = {}
    for field, facts, kind in _fields(options):
        target = parser
        if facts.one_of:
            if facts.one_of not in groups:
                groups[facts.one_of] = parser.add_mutually_exclusive_group(required=True)
            target = groups[facts.one_of]
        base, is_tuple = _base(kind)
        given: dict[str, Any] = {"help": _help(field, facts).replace("%", "%%")}
        if facts.prints is not None:
            given |= {"action": _Print, "text": facts.prints}
        elif base is bool:
            given["action"] = "store_true"
        else:
            given |= {"type": str if get_origin(base) is Literal else base, "metavar": facts.metavar}
            if choices := (get_args(base) if get_origin(base) is Literal else facts.choices):
                given["choices"] = tuple(choices)
            if is_tuple:
                given |= {"nargs": "+"} if facts.several == "list" else {"action": "append"}
        required = field.default is REQUIRED and not facts.found
        default = None if is_tuple or facts.found or required else field.default
        if facts.positional:
            if not is_tuple and not required:
                given["nargs"] = "?"
            target.add_argument(field.name, default=None if required or facts.found else field.default, **given)
        else:
            if not facts.one_of and base is not bool:
                given["required"] = required
            target.add_argument(_flag(field.name), default=default, **given)


def options_of(options: type[Options], arguments: argparse.Namespace) -> Options:
    """Return the options of a dataclass among parsed arguments.

    Raises:
        M2KRError: a number is out of its bounds.
    """
    values: dict[str, Any] = {}
    for field, facts, kind in _fields(options):
        value = getattr(arguments, field.name)
        if value is None and facts.found:
            value = facts.found(arguments)
        name = field.name if facts.positional else _flag(field.name)
        if _base(kind)[1]:
            value = tuple(value) if value is not None else None if field.default is REQUIRED else field.default
        if value is not None and _base(kind)[0] in (int, float):
            most = LARGEST if facts.most is None else facts.most
            if not abs(value) <= most:
                raise M2KRError(f"{name} is {_shown(value)}; it has to be a number of {most:,} at most.")
            if facts.least is not None and value < facts.least:
                raise M2KRError(f"{name} is {value}; it has to be {facts.least:g} or more.")
            if facts.above is not None and value <= facts.above:
                raise M2KRError(f"{name} is {value}; it has to be more than {facts.above:g}.")
        values[field.name] = value
    return options(**values)


def chosen(options: DataclassInstance, where: Literal["in_key", "in_result"]) -> dict[str, Any]:
    """Return the options that belong into the settings' key or into a result file: name -> value."""
    return {
        field.name: getattr(options, field.name) for field, facts, _ in _fields(type(options)) if getattr(facts, where)
    }


def options_table(options: type[DataclassInstance]) -> str:
    """Return the options as a Markdown table, for the documentation."""
    lines = ["| option | what it does |", "| --- | --- |"]
    for field, facts, kind in _fields(options):
        base, is_tuple = _base(kind)
        choices = get_args(base) if get_origin(base) is Literal else facts.choices
        value = "" if base is bool else " " + (facts.metavar or "|".join(choices) or field.name.upper())
        name = facts.metavar or field.name if facts.positional else f"{_flag(field.name)}{value}"
        if is_tuple:
            name += " ..."
        cells = (f"`{name}`", _help(field, facts).replace("<", "&lt;"))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _shown(value: float) -> str:
    """Return a number as text; of one with hundreds of digits, which Python may refuse to spell, their count."""
    return f"of {math.log10(abs(value)):.0f} digits" if math.inf > abs(value) >= 1e100 else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _fields(options: type[DataclassInstance]) -> list[tuple[dataclasses.Field[Any], _Facts, Any]]:
    """Return field, facts and type of each option: the class's own first, then those it inherits."""
    hints = get_type_hints(options)
    order = list(dict.fromkeys(name for cls in options.__mro__ for name in inspect.get_annotations(cls)))
    return [
        (field, field.metadata["option"], hints[field.name])
        for field in sorted(dataclasses.fields(options), key=lambda field: order.index(field.name))
        if "option" in field.metadata
    ]


def _base(kind: Any) -> tuple[Any, bool]:
    """Return the type of one value, and whether there may be several."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is tuple:
        return get_args(kind)[0], True
    return kind, False


def _help(field: dataclasses.Field[Any], facts: _Facts) -> str:
    does = facts.does if isinstance(facts.does, str) else facts.does()
    if field.default is False or field.default in (REQUIRED, None, ()) or "default" in does:
        return does
    shown = field.default.as_posix() if isinstance(field.default, Path) else field.default
    return f"{does}; default {shown:g}" if isinstance(shown, float) else f"{does}; default {shown}"
