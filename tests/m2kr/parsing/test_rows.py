"""A few rows of a table hold their own texts, and not those of all others."""

import polars as pl

from m2kr.parsing.rows import own_text


def bytes_held(texts):
    buffers = texts.to_arrow(compat_level=pl.CompatLevel.newest()).buffers()
    return sum(buffer.size for buffer in buffers if buffer is not None)


def test_few_rows_do_not_hold_the_texts_of_all():
    table = pl.LazyFrame({"text": [f"{number} {'x' * 100}" for number in range(1_000)]})
    few = table.filter(pl.col("text").str.starts_with("7 "))
    assert bytes_held(few.collect(engine="streaming")["text"]) > 100_000, "no copy is needed any more"
    own = few.with_columns(own_text("text")).collect(engine="streaming")
    assert own.equals(few.collect())
    assert bytes_held(own["text"]) < 1_000
