"""`leaderboard.figures`: the tables of all figures, with intervals and ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leaderboard.figures import ANSWER_FIELDS, FIELDS, answer_figures, interval, run_figures
from leaderboard.marks import usual_data
from leaderboard.published import ANSWERING, read_published
from leaderboard.records import read_records
from m2kr.significance import bootstrap_means


def tables(folder):
    runs, answers = read_records(folder)
    published, published_answers = read_published(), read_published(ANSWERING)
    reference = usual_data(record.result for record in runs + answers)
    return (
        run_figures([record.marked(reference) for record in runs], published),
        answer_figures([record.marked(reference) for record in answers], published_answers),
    )


def test_both_tables_have_their_columns_and_types(make, make_answer, results):
    make()
    make_answer()
    for table, fields in zip(tables(results), (FIELDS, ANSWER_FIELDS), strict=True):
        assert {name: str(kind) for name, kind in table.dtypes.items()} == fields
        assert set(table["origin"]) == {"run", "published"}


@pytest.mark.parametrize(("hits", "queries"), [(0, 50), (30, 50), (430, 1000), (1000, 1000)])
def test_the_interval_is_that_of_the_bootstrap(hits, queries):
    values = np.zeros((queries, 1))
    values[:hits] = 1
    drawn = np.percentile(bootstrap_means(values, 20_000, seed=0), (2.5, 97.5))
    assert interval(hits / queries, queries) == pytest.approx(drawn, abs=0.01)


def test_only_hit_rates_have_an_interval_and_a_rank(make, results):
    make()
    table, _ = tables(results)
    table = table[table["origin"] == "run"].set_index("metric")
    assert table.loc["Recall@5", "value"] == pytest.approx(43)
    assert table.loc["Recall@5", "low"] < 43 < table.loc["Recall@5", "high"]
    assert np.isnan(table.loc["MRR@10", "low"])
    assert list(table.index[table["ranked"]]) == ["Recall@5", "PRecall@5"]


def test_ranks_are_within_a_group(make, results):
    for folder, share, nano in (("a", 0.4, False), ("b", 0.6, False), ("c", 0.6, False), ("d", 0.9, True)):
        make(folder, metrics={"Recall@5": share}, nano=nano, seed=0 if nano else None)
    table, _ = tables(results)
    own = table[(table["origin"] == "run") & (table["metric"] == "Recall@5")].set_index("slug")["rank"]
    assert own.to_dict() == {"a": 3, "b": 1, "c": 1, "d": 1}
    official = table[(table["group"] == "official") & (table["task"] == "WIT")].set_index("model")["rank"]
    assert official.to_dict() == {"PreFLMR_ViT-G": 1, "PreFLMR_ViT-L": 2, "PreFLMR_ViT-B": 3}


def test_figures_of_answering_are_those_of_the_files_in_percent(answered):
    _, table = tables(answered)
    _, answers = read_records(answered)
    own = table[table["origin"] == "run"].to_dict("records")
    for record, row in zip(answers, own, strict=True):
        name = record.result["headline"][0]
        assert (row["metric"], row["value"]) == (name, 100 * record.result["metrics"][name])
        assert [row["low"], row["high"]] == [100 * end for end in record.result["intervals"][name]]
        assert row["marks"] == "made-up data; without images"


def test_the_positive_passages_are_no_rival(make_answer, results):
    for source, value in (("none", 0.3), ("run", 0.4), ("oracle", 0.9)):
        make_answer(source, source=source, metrics={"VQA": value})
    _, table = tables(results)
    ranks = table[table["origin"] == "run"].set_index("passages")["rank"]
    assert ranks[["bm25", "none"]].to_list() == [1, 2]
    assert pd.isna(ranks["oracle"])


def test_published_figures_of_answering_are_not_ranked(results):
    _, table = tables(results)
    assert len(table) == 22
    assert not table["ranked"].any()
    assert table["rank"].isna().all()
