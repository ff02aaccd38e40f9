"""Hand-made raw releases, small enough to know every row of."""

import json

import pytest

from m2kr.parsing.releases import Quarantine, RawFiles
from m2kr.sources.options import make_options, source_of


@pytest.fixture
def root(tmp_path):
    """An empty raw root."""
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def put(root):
    """Write a raw file: text, bytes, or a value as JSON."""

    def write(name, content):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tables(root, tmp_path):
    """Build a task's tables and collect them: ({split: rows}, {split: passages}, quarantine, lacking)."""

    def build(task, on_bad_rows="error", allow_missing=False, seed=0, workers=1, **options):
        quarantine = Quarantine(on_bad_rows, allow_missing=allow_missing)
        raw = RawFiles(root, tmp_path / "work", quarantine=quarantine, workers=workers, quiet=True)
        made = source_of(task).build(raw, make_options(task, options), seed)
        data = {split: frame.collect() for split, frame in made.data.items()}
        passages = {split: frame.collect() for split, frame in made.passages.items()}
        return data, passages, quarantine, made.lacking

    return build


@pytest.fixture
def counts(root, tmp_path):
    """Build a task's tables and return the facts counted on the way."""

    def build(task, on_bad_rows="error", allow_missing=False, **options):
        quarantine = Quarantine(on_bad_rows, allow_missing=allow_missing)
        raw = RawFiles(root, tmp_path / "work", quarantine=quarantine, quiet=True)
        return source_of(task).build(raw, make_options(task, options), 0).counts

    return build
