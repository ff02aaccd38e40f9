"""What several of the tests of `m2kr` read."""

import json
import shutil

import pytest

from m2kr.write import read_manifest


@pytest.fixture
def data(built, tmp_path):
    """A benchmark that a test may change, of two tasks: MS MARCO's and OK-VQA's."""
    out = tmp_path / "data"
    for key in ("MSMARCO", "OKVQA"):
        for suffix in ("data", "passages"):
            shutil.copytree(built / f"{key}_{suffix}", out / f"{key}_{suffix}")
    manifest = read_manifest(built)
    manifest["tasks"] = {key: manifest["tasks"][key] for key in ("MSMARCO", "OKVQA")}
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out
