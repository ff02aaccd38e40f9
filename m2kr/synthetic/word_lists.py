"""Reads the word lists and sentence templates of the made-up world, which are TOML files in the folder ``words``."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import TypeVar

import msgspec

T = TypeVar("T")


def load(name: str, into: type[T]) -> T:
    """Return ``words/<name>.toml`` as the type that it has to fit."""
    text = resources.files("m2kr.synthetic").joinpath("words", f"{name}.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), into)
