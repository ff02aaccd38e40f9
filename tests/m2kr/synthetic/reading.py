"""Reads the files of the made-up releases, as the tests of this folder do."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from m2kr.synthetic.world import World
from m2kr.synthetic.write import RELEASES


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def lines(path: Path) -> list[dict[str, Any]]:
    written = content(path)
    assert written.endswith(b"\n")
    return [json.loads(line) for line in written.decode().split("\n")[:-1]]


def tsv(path: Path) -> list[list[str]]:
    written = path.read_bytes().decode()
    assert written.endswith("\n")
    assert "\r" not in written
    return [line.split("\t") for line in written[:-1].split("\n")]


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content(path).decode(), newline=""), delimiter=delimiter, strict=True))


def blocks_by_title(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in table(root / "wikipedia" / "psgs_w100.tsv", "\t"):
        found.setdefault(row["title"], []).append(row["text"])
    return found


def wit_rows(root: Path, split: str) -> list[dict[str, str]]:
    tables = [table(path, "\t") for path in sorted((root / "wit").glob(f"wit_v1.{split}.*.tsv.gz"))]
    assert all(tables), "every file has a row"
    return [row for rows in tables for row in rows]


def opens(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "JPEG"


def made(release: str, name: str, scale: float) -> bytes:
    """Return a file of a release as it is written at a scale, without writing the others."""
    files = {file.path: file for file in RELEASES[release].files(World(0, scale))}
    return b"".join(files[name].pieces())
