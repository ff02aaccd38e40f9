"""Finding what packages register under a name, retrievers and readers alike, and making it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from m2kr.errors import M2KRError, did_you_mean

_OWN = ("checkpoint", "device", "dtype")
"""Keyword arguments that have arguments of their own on the command line."""


def by_name(points: Iterable[EntryPoint], kind: str) -> dict[str, EntryPoint]:
    """Return entry points by their name.

    Args:
        points: of one group.
        kind: what they are ("retriever"), for the message.

    Raises:
        M2KRError: two installed packages register one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in points:
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise M2KRError(
                f"the {kind} {point.name!r} is registered twice, as {other.value} and as {point.value}. "
                "Uninstall one of the two packages."
            )
    return found


def make(
    kind: str,
    known: Mapping[str, EntryPoint],
    name: str,
    *,
    otherwise: tuple[str, str],
    checkpoint: str | None,
    device: str,
    dtype: str,
    options: Mapping[str, str],
) -> tuple[Any, str]:
    """Return what is registered as ``name``, made with these arguments, and where its code is.

    Args:
        kind: what it is, for messages.
        known: see `by_name`.
        name: registered name, folder or hub id.
        otherwise: the name that takes a folder or hub id for its checkpoint, and what such models are called.
        checkpoint: folder or hub id to load instead of its own.
        device: as torch names it.
        dtype: name of a torch type.
        options: further keyword arguments.

    Raises:
        M2KRError: there is none of that name (with the closest there is), it has no such option, or it cannot be
            loaded.
    """
    any_model, called = otherwise
    if name not in known and checkpoint is None and (Path(name).is_dir() or name.count("/") == 1):
        name, checkpoint = any_model, name
    if name not in known:
        listed = ", ".join(sorted(known)) or "none; install the package, which registers them"
        raise M2KRError(
            f"there is no {kind} {name!r}.{did_you_mean(name, list(known))} Registered: {listed}. "
            f"{called} is named by its folder or hub id."
        )
    try:
        factory = known[name].load()
    except ImportError as error:
        raise M2KRError(f"the {kind} {name!r} needs a package that is not installed: {error}.") from error
    except AttributeError as error:
        raise M2KRError(
            f"the {kind} {name!r} is registered as {known[name].value}, which cannot be loaded: {error}."
        ) from error
    _check_options(f"the {kind} {name!r}", factory, options)
    return factory(checkpoint=checkpoint, device=device, dtype=dtype, **options), known[name].value


def _check_options(what: str, factory: Any, options: Mapping[str, str]) -> None:
    for option in options:
        if option in _OWN:
            raise M2KRError(f"--option {option}: there is an argument for that, --{option}.")
    parameters = inspect.signature(factory).parameters.values() if options else ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = {item.name: item.default for item in parameters if item.kind in by_keyword and item.name not in _OWN}
    for option in options:
        if option not in known:
            listed = ", ".join(f"{name} (default {default!r})" for name, default in known.items()) or "none"
            raise M2KRError(f"{what} has no option {option!r}.{did_you_mean(option, list(known))} It has: {listed}.")
