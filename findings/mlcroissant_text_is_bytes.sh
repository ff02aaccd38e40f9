#!/usr/bin/env bash
# mlcroissant 1.1.1: records of sc:Text fields over Parquet come as bytes, also inside lists.
#
# Guess: a field declared as text, in a column of type string, gives str.
# Seen: b'...' in every record. Ids joined against those of another reader match nothing, without an error.
. "$(dirname "$0")/lib/environment.sh"
run_with 'mlcroissant[parquet]==1.1.1' 'pyarrow==26.0.1' <<'PY'
import hashlib
import json
import logging
from pathlib import Path

import mlcroissant as mlc
import pyarrow as pa
import pyarrow.parquet as pq

logging.disable(logging.CRITICAL)
pq.write_table(pa.table({"id": ["q1"], "answers": [["an owl", "owl"]], "rank": [1]}), "rows.parquet")
file = mlc.FileObject(
    id="file",
    name="file",
    content_url="rows.parquet",
    encoding_formats=["application/x-parquet"],
    sha256=hashlib.sha256(Path("rows.parquet").read_bytes()).hexdigest(),
)


def field(name, kind, **more):
    source = mlc.Source(file_object="file", extract=mlc.Extract(column=name))
    return mlc.Field(id=f"rows/{name}", name=name, data_types=[kind], source=source, **more)


fields = [field("id", mlc.DataType.TEXT), field("answers", mlc.DataType.TEXT, repeated=True)]
fields.append(field("rank", mlc.DataType.INTEGER))
metadata = mlc.Metadata(
    name="example",
    url="https://example.org",
    distribution=[file],
    record_sets=[mlc.RecordSet(id="rows", name="rows", fields=fields)],
)
Path("croissant.json").write_text(json.dumps(metadata.to_json(), default=str))
(record,) = mlc.Dataset("croissant.json").records("rows")
print(record)
assert record == {"rows/id": b"q1", "rows/answers": [b"an owl", b"owl"], "rows/rank": 1}
PY
