"""Raw text files that passed through other hands make the same tables: all ten tasks, every raw file that is text."""

from __future__ import annotations

import codecs
import gzip
import os
import shutil
from pathlib import Path

import pytest

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.formats.manifest import read_manifest, shards_of
from m2kr.tasks import RELEASES, TASKS

QUOTED = ("wit", "evqa", "psgs_w100")
"""In these a line feed may stand inside a quoted field, where it is text."""


@pytest.fixture(scope="module")
def other_hands(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw releases with marks and Windows line ends; gzip files unpacked and text files packed, names as before."""
    out = tmp_path_factory.mktemp("hands") / "raw"
    shutil.copytree(world, out, copy_function=os.link)
    changed = 0
    for name, release in RELEASES.items():
        for pattern in (*release.files, *release.optional):
            for path in {*(out / name).glob(pattern), *(out / name).glob(f"{pattern}.gz")}:
                if path.name.endswith((".tar.gz", ".zip")) or not path.is_file():
                    continue
                data = path.read_bytes()
                packed = data.startswith(b"\x1f\x8b")
                text = gzip.decompress(data) if packed else data
                if not any(part in f"{name}/{path.name}" for part in QUOTED):
                    text = text.replace(b"\n", b"\r\n")
                path.unlink()  # it is a link to a file of `world`
                path.write_bytes(codecs.BOM_UTF8 + text if packed else gzip.compress(codecs.BOM_UTF8 + text, 1))
                changed += 1
    assert changed > 30
    return out


@pytest.mark.parametrize("name", TASKS)
def test_marks_line_ends_and_packing_change_no_table(built, other_hands, tmp_path, name):
    build_task(task_inputs(TASKS[name], other_hands), tmp_path, quiet=True)
    tables = [
        [(shard["path"], shard["sha256"]) for shard in shards_of(read_manifest(folder)["tasks"][name])]
        for folder in (built, tmp_path)
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 1
