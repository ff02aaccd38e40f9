"""The phrase search equals a plain search of every block."""

import re

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m2kr.parsing import compressed
from m2kr.sources.wikipedia import find_phrases, words
from tests.m2kr.raw_files import QUICK, blocks

WORDS = ["tea", "cup", "tea cup", "The", "a-b", "Élan", "12", "x", "tea, cup"]
BLOCK = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


def plain_words(text):
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def plain_search(blocks, phrase, best):
    """Score every block by the documented formula, without any index."""
    found = []
    for number, text, title in blocks:
        scores = []
        for field, average in ((text, 100), (title, 3)):
            tokens = plain_words(field).split()
            wanted = phrase.split()
            count = sum(tokens[i : i + len(wanted)] == wanted for i in range(len(tokens)))
            if count:
                scores.append(count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(tokens) / average)))
        if scores:
            found.append((-round(max(scores), 9), number))
    return [(number, -score) for score, number in sorted(found)[:best]]


@QUICK
@given(
    texts=st.lists(st.tuples(BLOCK, BLOCK), min_size=1, max_size=25),
    best=st.integers(1, 4),
    workers=st.sampled_from([1, 3]),
)
@example(  # two phrases whose scores in both are equal, and were not in floating point
    texts=[("tea", "tea " * 10 + "cup a-b tea, cup"), ("tea", "tea " * 6 + "cup")], best=1, workers=1
)
def test_the_best_blocks_of_every_phrase_are_found(tmp_path, texts, best, workers):
    rows = [(number, text, title) for number, (text, title) in enumerate(texts, start=1)]
    (tmp_path / "psgs.tsv").write_text(blocks(*rows), encoding="utf-8")
    phrases = sorted({plain_words(word) for word in WORDS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "BLOCK_BYTES", 100)
        (batch,) = find_phrases(tmp_path / "psgs.tsv", lambda _: None, phrases, best, workers)
    for phrase in phrases:
        hits = batch.frame.filter(pl.col("phrase") == phrase)
        expected = plain_search(rows, phrase, best)
        assert hits["id"].to_list() == [number for number, _ in expected]
        assert hits["score"].to_list() == pytest.approx([score for _, score in expected])


def test_words_are_those_of_a_standard_analyzer():
    texts = ["The  Eiffel-Tower's (1889)", "naïve Ünïcode", "...", "東京 tower", "no_underscore"]
    expected = ["the eiffel tower s 1889", "naïve ünïcode", "", "東京 tower", "no underscore"]
    assert pl.DataFrame({"text": texts}).select(words(pl.col("text")))["text"].to_list() == expected


@pytest.mark.parametrize(
    ("line", "reason"), [("x\ttext\ttitle", "the id x is not a number"), ("9\t\ttitle", "the text is empty")]
)
def test_bad_blocks_are_reported(tmp_path, line, reason):
    (tmp_path / "f").write_text(f"id\ttext\ttitle\n1\ttea\tt\n{line}\n", encoding="utf-8")
    (batch,) = find_phrases(tmp_path / "f", lambda _: None, ["tea"], 5)
    assert batch.frame["id"].to_list() == [1]
    assert [(row.row, row.reason) for row in batch.bad] == [("line 3", reason)]
