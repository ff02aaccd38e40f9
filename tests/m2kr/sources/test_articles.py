"""The blocks of an article that hold an answer are those that a plain search finds."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.sources.articles import Articles, numbers_in
from m2kr.sources.sampling import draw
from m2kr.sources.wikipedia import content, find_titles
from tests.m2kr.raw_files import QUICK, blocks


@pytest.mark.parametrize(
    ("text", "separated", "plain"),
    [
        ("1,234 m and 12,34", [1234, 12, 34], [1, 234, 12, 34]),
        ("1914-18, -5 and −6.5", [1914, 18, -5, -6.5], [1914, 18, -5, -6.5]),
        ("v2 is 3km; 1.5.7", [3, 1.5], [3, 1.5]),
        ("1,234,567.89", [1234567.89], [1, 234, 567.89]),
        ("no number", [], []),
        ("9" * 400, [float("inf")], [float("inf")]),
    ],
)
def test_numbers_of_a_text(text, separated, plain):
    assert numbers_in(text, separators=True) == separated
    assert numbers_in(text, separators=False) == plain


TITLES = ["Tower", "tower", "Big tower", "Straße", "STRASSE", "Sea"]
WORDS = ["tall", "In", "RURITANIA", "12", "1,234", "12.34", "-3", "é", "ı", "İ"]
BLOCK = st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), st.sampled_from(TITLES))


def plain_positives(rows, entity, strings, value, same):
    """Look at every block, as the rule is written."""
    texts = [(number, f"title: {title} content: {text}") for number, text, title in rows if same(title, entity)]
    found = [str(n) for n, text in texts if any(s.lower() in text.lower() for s in strings)]
    if found or value is None:
        return found
    number_of = [(n, re.findall(r"(?:(?<=\s)-)?[\d,.]*\d", text)) for n, text in texts]
    return [str(n) for n, all_ in number_of if any(abs(float(x.replace(",", "")) - value) <= 0.01 for x in all_)]


@QUICK
@given(
    st.lists(BLOCK, max_size=25),
    st.sampled_from(TITLES),
    st.lists(st.sampled_from([*WORDS, "in", "ruritania", "1234", "title", "x"]), min_size=1, max_size=3),
    st.sampled_from([None, 12.0, 1234.0, 12.345, -3.0, 5.0]),
    st.sampled_from(["exact", "casefold"]),
    st.integers(0, 4),
)
def test_streamed_matching_equals_a_plain_search(tmp_path, found, entity, strings, value, match, extra):
    rows = [(number, text, title) for number, (text, title) in enumerate(found, start=1)]
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes(blocks(*rows).encode())
    fold = str.casefold if match == "casefold" else str
    batches = list(find_titles(path, lambda _: None, {fold(entity)}, extra, 0, fold))
    frame = pl.concat([batch.frame for batch in batches]) if batches else None
    if not rows:
        assert frame is None or not frame.height
        return
    related = frame.filter("related")
    assert related["id"].to_list() == [n for n, _, title in rows if fold(title) == fold(entity)]
    others = [str(n) for n, _, title in rows if fold(title) != fold(entity)]
    smallest = sorted(zip(draw(others, 0, "further blocks").tolist(), others, strict=True))[:extra]
    assert frame.filter(~pl.col("related"))["id"].to_list() == sorted(int(n) for _, n in smallest)
    blocks_of = related.select("id", "title", content=content())
    articles = Articles(blocks_of, fold, most=1_000, tolerance=0.01, separators=True)
    same = (lambda a, b: a.casefold() == b.casefold()) if match == "casefold" else str.__eq__
    assert articles.positives(entity, tuple(strings), value)[0] == plain_positives(rows, entity, strings, value, same)
