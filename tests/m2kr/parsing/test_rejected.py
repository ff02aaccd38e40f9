"""Rows are judged by rules, and those left out end the build or are listed."""

import polars as pl
import pytest

from m2kr.errors import BadRowsError, MissingFilesError
from m2kr.parsing.rejected import RejectedRows, split_bad_rows
from m2kr.parsing.rows import BadRow, Batch


@pytest.mark.parametrize(
    ("on_bad_rows", "allow_missing", "kind", "tolerated"),
    [
        ("error", False, "bad", False),
        ("error", True, "bad", False),
        ("skip", False, "bad", True),
        ("error", False, "missing", False),
        ("error", True, "missing", True),
        ("skip", False, "missing", True),
    ],
)
def test_which_rows_are_tolerated(tmp_path, on_bad_rows, allow_missing, kind, tolerated):
    rejected = RejectedRows(on_bad_rows, allow_missing=allow_missing)
    rows = [BadRow("line 7", "it is torn", "text", "id 9"), BadRow("line 8", "it is wet")]
    if tolerated:
        rejected.add(tmp_path / "f", rows, kind=kind)
        assert rejected.count(kind) == 2
    else:
        with pytest.raises((BadRowsError, MissingFilesError), match=r"f, line 7 \(id 9\): it is torn\. 1 more rows"):
            rejected.add(tmp_path / "f", rows, kind=kind)


def test_the_first_rule_that_holds_gives_the_reason():
    frame = pl.DataFrame({"row": ["1", "2", "3"], "number": [1, -1, None], "raw": ["a", "b", "c"]})
    judged = split_bad_rows(
        Batch(frame),
        [(pl.col("number") < 0, "negative"), (pl.col("number").is_null() | (pl.col("number") < 0), "no number")],
        row_id="number",
        raw_text="raw",
    )
    assert judged.frame.rows() == [("1", 1)]
    assert judged.bad == [BadRow("2", "negative", "b", "number -1"), BadRow("3", "no number", "c")]
    whole = split_bad_rows(Batch(frame[:1]), [(pl.col("number") < 0, "negative")], raw_text="raw")
    assert whole.frame.rows() == [("1", 1)]
    assert not whole.bad
