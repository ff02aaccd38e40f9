#!/usr/bin/env bash
# polars 2.1.0: a field that first appears after line 100 of a JSON-lines file is dropped, silently.
#
# Guess: an error, as for a value of another type there ("cannot parse 'x' as Int64"), or the column with nulls before.
# Seen: read_ndjson and scan_ndjson infer columns from the first hundred lines, and whatever is new behind them is left
# out without a word. Releases that sort by kind of record (first those without, then those with answers) lose a column.
# infer_schema_length=None reads all of them.
. "$(dirname "$0")/lib/environment.sh"
run_with 'polars==2.1.0' <<'PY'
import io

import polars as pl

lines = b'{"question": "which bird"}\n' * 100 + b'{"question": "how tall", "answer": "47 m"}\n'
early = b'{"question": "which bird"}\n' * 99 + b'{"question": "how tall", "answer": "47 m"}\n'
print("new on line 100:", pl.read_ndjson(io.BytesIO(early)).columns)
print("new on line 101:", pl.read_ndjson(io.BytesIO(lines)).columns)
assert pl.read_ndjson(io.BytesIO(early)).columns == ["question", "answer"]
assert pl.read_ndjson(io.BytesIO(lines)).columns == ["question"]
assert pl.scan_ndjson(io.BytesIO(lines)).collect().columns == ["question"]
assert pl.read_ndjson(io.BytesIO(lines), infer_schema_length=None).columns == ["question", "answer"]
try:
    pl.read_ndjson(io.BytesIO(b'{"n": 1}\n' * 100 + b'{"n": "x"}\n'))
except pl.exceptions.ComputeError as error:
    print("another type on line 101:", str(error).splitlines()[0])
else:
    raise AssertionError("another type is accepted now")
PY
