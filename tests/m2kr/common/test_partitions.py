"""Parts of tables hold all rows of their ids, whatever the size of a part."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from m2kr.common import partitions
from m2kr.common.partitions import parts_by_hash

IDS = st.lists(st.one_of(st.none(), st.sampled_from("abcdef"), st.text(st.characters(exclude_categories=["Cs"]))))


@given(IDS, IDS, st.integers(1, 5))
def test_each_row_is_in_one_part_and_equal_ids_in_the_same(one, two, rows):
    tables = [pl.LazyFrame({"id": ids}, schema={"id": pl.String}).with_row_index("row") for ids in (one, two)]
    parts = [(a.collect(), b.collect()) for a, b in small_parts(rows, *((table, "id") for table in tables))]
    assert len(parts) == max(1, -(-max(len(one), len(two)) // rows))
    for side, table in enumerate(tables):
        assert pl.concat(part[side] for part in parts).sort("row").equals(table.collect())
    for name in {*one, *two}:
        assert sum(name in {*a["id"], *b["id"]} for a, b in parts) == 1


def small_parts(rows, *keyed):
    before, partitions.PART_ROWS = partitions.PART_ROWS, rows
    try:
        yield from parts_by_hash(*keyed)
    finally:
        partitions.PART_ROWS = before
