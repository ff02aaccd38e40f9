#!/usr/bin/env bash
# datasets 5.2.0: a column that the dataset card declares and the Parquet file lacks is filled with None, silently.
#
# Guess: load_dataset refuses a file without a declared column, as it refuses one with a column too many (CastError)
# and one with another number of rows than the card says (NonMatchingSplitsSizesError).
# Seen: only the column too many is refused. A shard without its answers loads, and every row has answers=None, so that
# a measure which reads them scores zero instead of failing.
. "$(dirname "$0")/lib/environment.sh"
run_with 'datasets==5.2.0' 'pyarrow==26.0.1' <<'PY'
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError

CARD = """---
configs:
- config_name: questions
  data_files:
  - split: test
    path: questions/test-*.parquet
dataset_info:
- config_name: questions
  features:
  - name: question
    dtype: string
  - name: answer
    dtype: string
  splits:
  - name: test
    num_examples: 2
    num_bytes: 20
---
"""


def load(name, columns):
    folder = Path(name)
    (folder / "questions").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    pq.write_table(pa.table(columns), folder / "questions" / "test-00000-of-00001.parquet")
    return load_dataset(str(folder), "questions", split="test", cache_dir="cache")


lacking = load("lacking", {"question": ["who", "where"]})
print("a declared column that is not there:", lacking.to_list())
assert lacking.to_list() == [{"question": "who", "answer": None}, {"question": "where", "answer": None}]
try:
    load("more", {"question": ["who", "where"], "answer": ["a", "b"], "more": [1, 2]})
except DatasetGenerationError as error:
    print("a column too many:", type(error.__cause__).__name__)
else:
    raise AssertionError("a column too many is accepted now")
PY
