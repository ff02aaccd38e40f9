#!/usr/bin/env bash
# polars 2.1.0 keeps the first of two equal keys of a JSON object; json, msgspec 0.23.0 and ijson 3.6.0 keep the last.
#
# Guess: all keep the last, as Python's json does.
# Seen: polars keeps the first, in read_json as in read_ndjson, and pyarrow refuses the row. So one release read in a
# fast way by one library and in a careful way by another gives two answers, and neither says so.
. "$(dirname "$0")/lib/environment.sh"
run_with 'polars==2.1.0' 'msgspec==0.23.0' 'ijson==3.6.0' 'pyarrow==26.0.1' <<'PY'
import io
import json

import ijson
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.json

line = b'{"answer": "first", "answer": "last"}'
kept = {
    "json": json.loads(line)["answer"],
    "msgspec": msgspec.json.decode(line)["answer"],
    "ijson": next(ijson.items(io.BytesIO(line), ""))["answer"],
    "polars read_ndjson": pl.read_ndjson(io.BytesIO(line + b"\n"))["answer"][0],
    "polars read_json": pl.read_json(io.BytesIO(b"[" + line + b"]"))["answer"][0],
}
print(kept)
assert list(kept.values()) == ["last"] * 3 + ["first"] * 2
try:
    pyarrow.json.read_json(io.BytesIO(line + b"\n"))
except pa.ArrowInvalid as error:
    print("pyarrow:", error)
else:
    raise AssertionError("pyarrow accepts repeated keys now")
PY
