#!/usr/bin/env bash
# fastparquet 2026.9.0: of a large text column as pyarrow writes it by default, the later rows are read as None.
#
# Guess: a Parquet file of pyarrow, pandas or datasets with default settings is read with the values it has.
# Seen: pyarrow gives up a column's dictionary at 1 MiB and writes the pages behind that plainly. Of 40,000 different
# passages, fastparquet gives the first 22,048, and None for all others, without a word: a count of rows is right, and a
# filter for the last passage finds no row. Lists of texts too, and those written without a dictionary are None from the
# first row on. Numbers and small files are right; so was all of it with 2024.11.0 and pandas 2.
. "$(dirname "$0")/lib/environment.sh"
run_with 'fastparquet==2026.9.0' 'pyarrow==26.0.1' 'pandas==3.1.1' 'numpy==2.4.6' <<'PY'
import fastparquet
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

passages = [f"passage {row} about owls, harbours and towers" for row in range(40_000)]
table = pa.table({"text": passages, "number": [row * 7919 for row in range(40_000)]})


def lost(column, read):
    """How many rows are read otherwise than written, all of them as None, and the first of them."""
    pairs = zip(table[column].to_pylist(), read[column], strict=True)
    wrong = [row for row, (written, got) in enumerate(pairs) if written != got]
    assert all(read[column][row] is None for row in wrong)
    return len(wrong), wrong[:1]


pq.write_table(table, "default.parquet")
assert pq.read_table("default.parquet").equals(table)
read = fastparquet.ParquetFile("default.parquet").to_pandas()
print("rows:", len(read), "texts lost, the first of them:", lost("text", read), "numbers:", lost("number", read))
assert len(read) == 40_000
assert lost("text", read)[0] > 10_000
assert lost("number", read) == (0, [])
last = fastparquet.ParquetFile("default.parquet").to_pandas(filters=[("text", "==", passages[-1])], row_filter=True)
print("rows found for the last passage:", len(last))
assert len(last) == 0

table.to_pandas().to_parquet("pandas.parquet")
through = pd.read_parquet("pandas.parquet", engine="fastparquet")
print("written and read by pandas, engine fastparquet:", lost("text", through))
assert lost("text", through) == lost("text", read)

table = pa.table({"text": passages, "answers": [[passage, "an owl"] for passage in passages]})
for dictionary in (True, False):
    pq.write_table(table, "lists.parquet", use_dictionary=dictionary)
    read = fastparquet.ParquetFile("lists.parquet").to_pandas()
    counts = {column: lost(column, read) for column in table.column_names}
    print("with a dictionary:" if dictionary else "without a dictionary:", counts)
    assert counts["answers"][0] > 10_000 if dictionary else counts == {"text": (0, []), "answers": (40_000, [0])}

table = pa.table({"text": passages[:1000]})
pq.write_table(table, "small.parquet")
assert lost("text", fastparquet.ParquetFile("small.parquet").to_pandas()) == (0, [])
PY
