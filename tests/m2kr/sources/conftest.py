"""Hand-made raw releases, small enough to know every row of."""

import json
import re

import pytest

from m2kr.errors import BadRowsError
from m2kr.formats.rules import check_split
from m2kr.formats.schema import polars_schema
from m2kr.parsing.rejected import RejectedRows
from m2kr.parsing.releases import RawFiles
from m2kr.sources.options import make_options, source_of
from m2kr.tasks import RELEASES, TASKS


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
def make(root, tmp_path):
    """Return what a task's source makes of the raw root, and the rows that it rejects."""

    def build(task, on_bad_rows="error", allow_missing=False, seed=0, workers=1, **options):
        rejected = RejectedRows(on_bad_rows, allow_missing=allow_missing)
        folders = {name: root / name for name in RELEASES}
        raw = RawFiles(folders, tmp_path / "work", rejected=rejected, workers=workers, quiet=True)
        return source_of(task).build(raw, make_options(task, options), seed), rejected

    return build


@pytest.fixture
def tables(make):
    """Build a task's tables, check and collect them: ({split: rows}, {split: passages}, rejected rows, lacking)."""

    def build(task, **settings):
        made, rejected = make(task, **settings)
        data = {split: frame.collect() for split, frame in made.data.items()}
        passages = {split: frame.collect() for split, frame in made.passages.items()}
        assert set(data) <= set(passages)
        for split in data:
            assert data[split].schema == polars_schema(f"{task}_data")
            assert passages[split].schema == polars_schema(f"{task}_passages")
            check_split(TASKS[task], split, data[split].lazy(), passages[split].lazy())
            assert set(data[split]["instruction"]) <= set(TASKS[task].instructions or data[split]["instruction"])
        return data, passages, rejected, made.lacking

    return build


@pytest.fixture
def counts(make):
    """Build a task's tables and return the facts counted on the way."""
    return lambda task, **settings: make(task, **settings)[0].counts


@pytest.fixture
def rejects(tables):
    """Check that a build stops at a bad row and says why, or leaves out that row alone; return its tables then."""

    def check(task, file, row, reason):
        with pytest.raises(BadRowsError, match=rf"(?s){re.escape(file)}, {row}\b.*{reason}"):
            tables(task)
        data, passages, rejected, _ = tables(task, on_bad_rows="skip")
        assert [found.row.split(" (")[0] for found in rejected.rows if found.kind == "bad"] == [row]
        return data, passages

    return check
