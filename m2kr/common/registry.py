"""The registry of entry points under which packages offer retrievers and readers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.model_records import ModelRecord, records_of, records_table
from m2kr.common.own_code import OwnCode, own_code
from m2kr.errors import M2KRError, did_you_mean

if TYPE_CHECKING:
    from m2kr.tasks import Task

_OWN = ("checkpoint", "device", "dtype")
"""Keyword arguments that have arguments of their own on the command line."""

_KINDS = {"text", "image"}
_ATTRIBUTES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a text that is not empty"),
    "reads": ((frozenset, set), "a set of 'text' and 'image'"),
    "settings": (dict, "a dictionary"),
    "reads_instructions": (bool, "True or False"),
}
"""What the attributes that all protocols share have to be."""


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group that installed packages have, as they come.

    That reads a file of every package, so it is done again only where a package may have come or gone since.
    """
    return [*_entry_points(group, tuple((folder, _changed(folder)) for folder in sys.path))]


@lru_cache(maxsize=8)
def _entry_points(group: str, _path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _changed(folder: str) -> int:
    """Return when a folder of ``sys.path`` last got or lost a file, 0 where there is none."""
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True)
class Registry:
    """What installed packages register as entry points of a group.

    Attributes:
        group: the entry points' group.
        kind: what they make ("retriever"), for messages.
        any_model: the registered name that takes a folder or hub id for its checkpoint.
        called: what such models are called, for messages.
    """

    group: str
    kind: str
    any_model: str
    called: str

    def registered(self) -> dict[str, EntryPoint]:
        """Return the entry points by their name.

        Raises:
            M2KRError: two installed packages register one name.
        """
        found: dict[str, EntryPoint] = {}
        for point in self.points():
            other = found.setdefault(point.name, point)
            if other.value != point.value:
                raise M2KRError(
                    f"the {self.kind} {point.name!r} is registered twice, as {other.value} and as {point.value}. "
                    "Uninstall one of the two packages."
                )
        return found

    def records(self) -> dict[str, ModelRecord]:
        """Return the records of the packages that register models of this kind, by name."""
        return records_of((point.value.partition(":")[0].partition(".")[0] for point in self.points()), self.kind)

    def names(self) -> list[str]:
        """Return the names under which models are found, sorted."""
        return sorted({*self.registered(), *self.records()})

    def listed(self) -> str:
        """Return the names as one line, for the help of a command."""
        return f"registered {self.kind}s: {', '.join(self.names())}"

    def table(self) -> str:
        """Return all models with what is known of them, as a table for the terminal."""
        return records_table(self.names(), self.records())

    def with_preset(self, name: str, options: Mapping[str, str] | None) -> dict[str, str]:
        """Return the options that a model is loaded with: those given, before those of its record."""
        record = None if name in self.registered() else self.records().get(name)
        return {**(record.options if record else {}), **(options or {})}

    def points(self) -> list[EntryPoint]:
        """Return the entry points of the group, as they come."""
        return entry_points(self.group)

    def make(
        self,
        name: str,
        protocols: tuple[type, ...],
        *,
        checkpoint: str | None,
        device: str,
        dtype: str,
        options: Mapping[str, str] | None,
    ) -> Any:
        """Return what is registered as ``name``, made with these arguments; it has to be of one of ``protocols``.

        A name that has a record and no entry point is loaded as any model, with the record's hub id; its options are
        to be among ``options`` already (`with_preset`).
        A name of the form ``FILE.py:NAME`` is a class or function of the user's own; see `m2kr.common.own_code`.

        ``X:NAME`` stands for what is registered as ``X``, with the checkpoint ``NAME``.

        Raises:
            M2KRError: there is none of that name (with the closest there is), it has no such option, it cannot be
                loaded, or it is of no protocol.
        """
        known: dict[str, EntryPoint | OwnCode] = dict(self.registered())
        if own := own_code(name):
            known[name] = own
        prefix, colon, rest = name.partition(":")
        if name not in known and colon and prefix in known:
            if checkpoint is not None:
                raise M2KRError(f"{name} names a model, and --checkpoint {checkpoint} another. Leave one of them out.")
            name, checkpoint = prefix, rest
        if name not in known and (record := self.records().get(name)) is not None:
            name, checkpoint = self.any_model, checkpoint or record.hub_id
        elif name not in known and checkpoint is None and (Path(name).is_dir() or name.count("/") == 1):
            name, checkpoint = self.any_model, name
        if name not in known:
            there_are = self.names()
            listed = ", ".join(there_are) or "none; install the package, which registers them"
            raise M2KRError(
                f"there is no {self.kind} {name!r}.{did_you_mean(name, there_are)} Registered: {listed}. "
                f"{self.called} is named by its folder or hub id, and code of your own as FILE.py:NAME."
            )
        what, code = f"the {self.kind} {name!r}", known[name].value
        try:
            factory = known[name].load()
        except ImportError as error:
            raise M2KRError(f"{what} needs a package that is not installed: {error}.") from error
        except AttributeError as error:
            raise M2KRError(f"{what} is registered as {code}, which cannot be loaded: {error}.") from error
        _check_options(what, factory, options or {})
        made: Any = factory(checkpoint=checkpoint, device=device, dtype=dtype, **(options or {}))
        if not any(isinstance(made, protocol) for protocol in protocols):
            # Of several, that of which it has most.
            lacks, protocol = min(
                ((_lacking(made, each), each.__name__) for each in protocols), key=lambda x: len(x[0])
            )
            raise M2KRError(
                f"{code} does not speak the protocol of m2kr.{self.kind}.{protocol}: it lacks {', '.join(lacks)}."
            )
        for each in protocols:
            if isinstance(made, each):
                _check_methods(code, made, each)
        for attribute, (type_, wanted) in _ATTRIBUTES.items():
            value: Any = getattr(made, attribute, False)  # a reader reads no instructions
            other = attribute == "reads" and isinstance(value, set | frozenset) and not value <= _KINDS
            if not isinstance(value, type_) or value == "" or other:
                raise M2KRError(f"{code}: its {attribute} is {value!r} and has to be {wanted}.")
        if own:
            made.settings = {**made.settings, **own.settings(checkpoint)}
        return made


def _check_methods(code: str, made: Any, protocol: type) -> None:
    """Check that the methods of a model can be called as those of its protocol are.

    Raises:
        M2KRError: one cannot; it is named, with what it is called with.
    """
    for name, wanted in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        _, *parameters = inspect.signature(wanted).parameters.values()
        given = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        named = [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
        try:
            inspect.signature(getattr(made, name)).bind(*given, **dict.fromkeys(named))
        except TypeError as error:
            called = ", ".join([*given, *(f"{each}=..." for each in named)])
            raise M2KRError(
                f"{code}: its {name} is called as {name}({called}), which it does not take: {error}."
            ) from error
        except ValueError:  # compiled code may have no signature to look at
            continue


def ignored_inputs(name: str, reads: frozenset[str], task: Task, *, ignore_images: bool) -> list[str]:
    """Return the kinds of input of a task that a model called ``name`` will not be given: ["image"] or none.

    Raises:
        M2KRError: the task asks with images, which the model does not read, and they are not to be ignored.
    """
    if not task.reads_images or ("image" in reads and not ignore_images):
        return []
    if not ignore_images:
        raise M2KRError(
            f"{task.key} asks with images ({task.kind}) and {name} reads only {', '.join(sorted(reads))}. Pass "
            "--ignore-images to do without them; the result will say so. Or leave the task out with --tasks."
        )
    return ["image"]


def _lacking(made: object, protocol: type) -> list[str]:
    """Return the attributes and methods of a protocol that an object has not."""
    methods = (name for name, item in vars(protocol).items() if inspect.isfunction(item) and not name.startswith("_"))
    return [name for name in (*inspect.get_annotations(protocol), *methods) if not hasattr(made, name)]


def _check_options(what: str, factory: Any, options: Mapping[str, str]) -> None:
    for option in options:
        if option in _OWN:
            raise M2KRError(f"--option {option}: there is an argument for that, --{option}.")
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of a class that is written in C
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = {item.name: item.default for item in parameters if item.kind in by_keyword}
    if lacking := [name for name in _OWN if name not in taken]:
        raise M2KRError(f"{what} is called with {', '.join(_OWN)} by keyword and does not take {', '.join(lacking)}.")
    known = {name: default for name, default in taken.items() if name not in _OWN}
    for option in options:
        if option not in known:
            listed = ", ".join(f"{name} (default {default!r})" for name, default in known.items()) or "none"
            raise M2KRError(f"{what} has no option {option!r}.{did_you_mean(option, known)} It has: {listed}.")
