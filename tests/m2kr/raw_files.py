"""What tests of parsing and sources share: texts to draw, raw files to write, real samples to read."""

import csv
import io
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "raw_samples"

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"the real samples are not at {SAMPLES}")


def gathered(batches, columns):
    """All rows of some batches as tuples, and all bad rows."""
    batches = list(batches)
    frames = [batch.frame.select(columns) for batch in batches]
    rows = pl.concat(frames).rows() if frames else []
    return rows, [bad for batch in batches for bad in batch.bad]


def jsonl(*records):
    """Records as lines; a string is a line as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in records)


def delimited(rows, columns, *, delimiter="\t", end="\n", quoting=csv.QUOTE_MINIMAL):
    """Rows (tuples, or dicts by column) as the csv module writes them, under a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] if isinstance(row, dict) else row for row in rows)
    return text.getvalue()


def blocks(*rows):
    """Rows (id, text, title) as psgs_w100.tsv has them."""
    return delimited(rows, ["id", "text", "title"])
