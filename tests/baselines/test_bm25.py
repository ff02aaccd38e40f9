"""`baselines.bm25` against the formula, computed plainly in float64."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN

from baselines.bm25 import BM25
from m2kr.errors import M2KRError
from tests.tolerance import assert_within, gamma

NOUNS = ["owl", "fox", "bridge", "harbour", "meadow", "lantern", "copper", "violet", "castle", "river", "ferry", "bell"]


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in STOPWORDS_EN]


def reference(passages: list[str], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Lucene's BM25 of every passage: without the constant factor k1 + 1, which changes no order."""
    documents = [words(passage) for passage in passages]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words(query):
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            count = document.count(word)
            score += idf * count / (count + k1 * (1 - b + b * len(document) / average)) if count else 0.0
        scores.append(score)
    return scores


def ranked(passages: list[str], queries: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    bm25 = BM25()
    bm25.index(passages)
    scores, rows = bm25.rank(queries, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert scores.shape == rows.shape == (len(queries), min(k, len(passages)))
    return scores, rows


@pytest.mark.parametrize("seed", range(5))
def test_scores_and_order_are_those_of_the_formula(seed: int) -> None:
    draw = random.Random(seed)
    # Few words and lengths, so that many passages tie; some are empty.
    passages = [" ".join(draw.choices(NOUNS, k=draw.choice([0, 2, 3, 8]))) for _ in range(60)]
    queries = [" ".join(draw.choices([*NOUNS, "unheard", "the"], k=draw.randint(1, 5))) for _ in range(20)]
    scores, rows = ranked(passages, queries, 25)
    for query, query_scores, query_rows in zip(queries, scores, rows, strict=True):
        # Rounded, so that what ties in float32 ties here.
        wanted = np.round(np.array(reference(passages, query)), 5)
        order = np.lexsort((np.arange(len(passages)), -wanted))[:25]
        np.testing.assert_array_equal(query_rows, order)
        assert_within(query_scores, wanted[order], 5e-6 + gamma(16) * wanted[order])  # half a last digit


def test_sentences_are_read_without_capitals_stop_words_and_punctuation() -> None:
    passages = ["The OWL, of the bridge.", "an owl's bridge?", "The harbour: a fox!", "Nothing at all."]
    scores, rows = ranked(passages, ["Where is the Owl?", "the of a", "HARBOUR"], 4)
    assert rows[0].tolist()[:2] == [0, 1]
    assert scores[1].tolist() == [0, 0, 0, 0]
    assert rows[2].tolist() == [2, 0, 1, 3]
    expected = np.array(sorted(reference(passages, "HARBOUR"), reverse=True))
    assert_within(scores[2], expected, gamma(16) * expected)


@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_equal_scores_are_ordered_by_row_also_where_k_cuts_through_them(k: int) -> None:
    passages = ["fox", "owl", "river", "owl", "owl", "fox owl"]
    scores, rows = ranked(passages, ["owl", "fox"], k)
    assert rows[0].tolist() == [1, 3, 4, 5, 0, 2][:k]
    assert rows[1].tolist() == [0, 5, 1, 2, 3, 4][:k]
    assert len(set(scores[0].tolist()[:3])) == 1


def test_unknown_words_count_for_nothing() -> None:
    scores, rows = ranked(["owl", "fox river"], ["zeppelin", "", "zeppelin fox"], 2)
    assert rows.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert scores[:2].tolist() == [[0, 0], [0, 0]]
    assert scores[2, 0] == pytest.approx(reference(["owl", "fox river"], "fox")[1])


@pytest.mark.parametrize("passages", [[], [""], ["", ""], ["the of", "a"]], ids=repr)
def test_passages_without_words_are_all_equal(passages: list[str]) -> None:
    scores, rows = ranked(passages, ["owl", ""], 10)
    assert rows.tolist() == [list(range(len(passages)))] * 2
    assert not scores.any()


def test_no_queries_give_no_rows() -> None:
    ranked(["owl", "fox"], [], 10)


def test_ranking_again_gives_the_same_and_indexing_again_replaces() -> None:
    draw = random.Random(0)
    passages = [" ".join(draw.choices(NOUNS, k=5)) for _ in range(200)]
    bm25 = BM25()
    bm25.index(passages)
    first = bm25.rank(NOUNS, 50)
    bm25.index(["owl"])
    assert bm25.rank(["owl fox"], 50)[1].tolist() == [[0]]
    bm25.index(passages)
    second = bm25.rank(NOUNS, 50)
    third = ranked(passages, NOUNS, 50)
    for other in (second, third):
        assert [part.tobytes() for part in other] == [part.tobytes() for part in first]


def test_a_checkpoint_is_refused() -> None:
    with pytest.raises(M2KRError, match="bm25 has no checkpoint"):
        BM25(checkpoint="somewhere")
