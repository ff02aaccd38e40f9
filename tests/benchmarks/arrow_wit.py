"""Read WIT's files with pyarrow and write all their columns as Parquet: the yardstick of test_scale.py.

Run as ``python arrow_wit.py FOLDER OUT``. It keeps every row and derives nothing.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from m2kr.sources.wit_rows import COLUMNS


def main(folder: Path, out: Path) -> None:
    schema = pa.schema([(column, pa.string()) for column in COLUMNS])
    out.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(out / "wit.parquet", schema, compression="zstd") as writer:
        for path in sorted(folder.glob("*.tsv.gz")):
            with pa.CompressedInputStream(path.open("rb"), "gzip") as stream:
                reader = pa_csv.open_csv(
                    stream,
                    parse_options=pa_csv.ParseOptions(delimiter="\t", newlines_in_values=True),
                    convert_options=pa_csv.ConvertOptions(column_types=schema),
                )
                for batch in reader:
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=20_000)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
