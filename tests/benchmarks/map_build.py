"""MSMARCO's configs built the way a `datasets` user would: load the TSV files, `map` rows, write Parquet.

The yardstick of test_build.py. It does the same work as m2kr.build on the same options and no more: it does not
validate rows, check the result or hash files. Run as ``python map_build.py RAW OUT POOL TEST_QUERIES``.
"""

import random
import sys
from pathlib import Path

from datasets import Dataset, Features, Value, disable_progress_bars, load_dataset

from m2kr.formats.schema import arrow_schema
from m2kr.sources.msmarco import TASK


def main(raw: Path, out: Path, pool_size: int, test_queries: int) -> None:
    disable_progress_bars()
    cache = str(out / "cache")

    def read(name: str, columns: list[str]) -> Dataset:
        features = Features({column: Value("string") for column in columns})
        return load_dataset(
            "csv", data_files=str(raw / name), split="train", delimiter="\t", quoting=3, column_names=columns,
            features=features, cache_dir=cache, keep_default_na=False, lineterminator="\n",
        )  # fmt: skip

    collection = read("collection.tsv", ["pid", "text"])
    texts = dict(zip(collection["pid"], collection["text"], strict=True))

    def passage(row: dict) -> dict:
        return {
            "language": "en",
            "original_data_id": row["pid"],
            "img_id": None,
            "img_path": None,
            "passage_id": row["pid"],
            "passage_content": row["text"],
        }

    features = Features.from_arrow_schema(arrow_schema("MSMARCO_passages"))
    passages = collection.map(passage, remove_columns=["pid", "text"], features=features)
    features = Features.from_arrow_schema(arrow_schema("MSMARCO_data"))
    queries: dict[str, Dataset] = {}
    for split, name in (("train", "train"), ("valid", "dev.small")):
        positives: dict[str, list[str]] = {}
        for row in read(f"qrels.{name}.tsv", ["qid", "zero", "pid", "relevance"]):
            positives.setdefault(row["qid"], []).append(row["pid"])

        def query(row: dict, positives: dict[str, list[str]] = positives) -> dict:
            ids = positives[row["qid"]]
            return {
                "original_data_id": ids,
                "pos_item_ids": ids,
                "pos_item_contents": [texts[pid] for pid in ids],
                "img_id": None,
                "img_path": None,
                "image_id": None,
                "question_id": row["qid"],
                "question": row["text"],
                "instruction": TASK.instructions[0],
            }

        asked = read(f"queries.{name}.tsv", ["qid", "text"])
        judged = asked.filter(lambda row, positives=positives: row["qid"] in positives)
        queries[split] = judged.map(query, remove_columns=["qid", "text"], features=features)
    chance = random.Random(0)
    chosen = sorted(chance.sample(range(len(queries["valid"])), test_queries))
    queries["test"] = queries["valid"].select(chosen)
    wanted = {pid for ids in queries["valid"]["pos_item_ids"] for pid in ids}
    rest = [pid for pid in texts if pid not in wanted]
    wanted.update(chance.sample(rest, pool_size - len(wanted)))
    pool = passages.filter(lambda row: row["passage_id"] in wanted)
    for split, table in queries.items():
        write(table, out / "MSMARCO_data" / f"{split}-00000-of-00001.parquet")
    for split, table in (("train", passages), ("valid", pool), ("test", pool)):
        write(table, out / "MSMARCO_passages" / f"{split}_passages-00000-of-00001.parquet")


def write(table: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
