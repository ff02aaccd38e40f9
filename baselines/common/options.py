"""Options of retrievers and readers, which come as text from ``--option NAME=VALUE``."""

from __future__ import annotations

from typing import Any, get_args

from m2kr.common.cli import LARGEST
from m2kr.errors import M2KRError, did_you_mean


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is not one of a ``Literal``, or among the keys of a dict.

    Raises:
        M2KRError: it is not; with the choices.
    """
    known = list(get_args(choices) or choices)
    if value not in known:
        raise M2KRError(f"{name} {value!r} is not known.{did_you_mean(value, known)} Choose one of {', '.join(known)}.")


def whole_number(name: str, value: str, least: int = 1) -> int:
    """Return the number that an option holds.

    Raises:
        M2KRError: it holds none, or one below ``least``.
    """
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if not least <= number <= LARGEST:
        raise M2KRError(f"--option {name}={value:.40}: it has to be a whole number from {least} to {LARGEST:,}.")
    return number
