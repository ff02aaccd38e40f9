"""`leaderboard.records`: marks, groups and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.records import figures, interval, models_of, read_records, usual_data, with_marks
from m2kr.errors import M2KRError
from m2kr.significance import bootstrap_means


def marks_of(make, tmp_path, **changes):
    make(**changes)
    records = read_records(tmp_path / "results")
    return with_marks(records[0], {("OKVQA", "test", False): "0123456789abcdef"}).marks


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({}, ()),
        ({"dataset": "another"}, ("other-data",)),
        ({"nano": True, "seed": 0}, ("nano",)),
        ({"limited": True}, ("limited",)),
        ({"ignored_inputs": ["image"]}, ("no-images",)),
        ({"search": "plaid"}, ("approximate",)),
        ({"split": "valid"}, ("other-split",)),
        ({"synthetic": True, "ignored_inputs": ["image"]}, ("made-up", "no-images")),
    ],
)
def test_what_sets_a_result_apart(make, tmp_path, changes, marks):
    assert marks_of(make, tmp_path, **changes) == marks


def test_a_result_without_marks_stands_apart_from_all_others(make, tmp_path):
    make("a")
    make("b", dataset="another")
    records = [with_marks(record, usual_data([])) for record in read_records(tmp_path / "results")]
    assert {record.group for record in records} == {"run"}
    assert len({record.pool for record in records}) == 2  # and even so they are never ranked together


def test_the_usual_data_are_those_of_most(make, tmp_path):
    for folder, dataset in (("a", "bbb"), ("b", "aaa"), ("c", "bbb")):
        make(folder, dataset=dataset)
    assert usual_data(read_records(tmp_path / "results")) == {("OKVQA", "test", False): "bbb"}


def test_of_equally_many_data_the_choice_does_not_hang_on_the_folders(make, tmp_path):
    make("a", dataset="bbb")
    make("b", dataset="aaa")
    assert usual_data(read_records(tmp_path / "results")) == {("OKVQA", "test", False): "aaa"}


def test_models_keep_their_results_together(make, tmp_path):
    make("x--y", model="x/y")
    make("x--y", model="x/y", task="WIT")
    make("z", model="z")
    models = models_of(read_records(tmp_path / "results"))
    assert [(model.name, len(model.records), model.mixed) for model in models] == [("x/y", 2, False), ("z", 1, False)]


def test_different_settings_in_one_folder_are_noticed(make, tmp_path):
    make(model_settings={"k1": 1.2})
    make(task="WIT", model_settings={"k1": 0.9})
    (model,) = models_of(read_records(tmp_path / "results"))
    assert model.mixed


def test_folders_whose_names_become_alike_have_pages_of_their_own(make, tmp_path):
    make("a b")
    make("a-b")
    assert len({record.slug for record in read_records(tmp_path / "results")}) == 2


def test_one_result_for_each_task(make, tmp_path):
    make()
    make(name="again.json")
    with pytest.raises(M2KRError, match="results of one model and task"):
        read_records(tmp_path / "results")


def test_results_have_to_be_a_folder(tmp_path):
    with pytest.raises(M2KRError, match="no folder of results"):
        read_records(tmp_path / "nowhere")


@pytest.mark.parametrize(("hits", "queries"), [(0, 50), (30, 50), (430, 1000), (1000, 1000)])
def test_the_interval_is_that_of_the_bootstrap(hits, queries):
    values = np.zeros((queries, 1))
    values[:hits] = 1
    drawn = np.percentile(bootstrap_means(values, 20_000, seed=0), (2.5, 97.5))
    assert interval(hits / queries, queries) == pytest.approx(drawn, abs=0.01)


def test_only_hit_rates_have_an_interval_and_a_rank(make, tmp_path):
    make()
    table = figures(read_records(tmp_path / "results")).set_index("metric")
    assert table.loc["Recall@5", "value"] == pytest.approx(43)
    assert table.loc["Recall@5", "low"] < 43 < table.loc["Recall@5", "high"]
    assert np.isnan(table.loc["MRR@10", "low"])
    assert list(table.index[table["ranked"]]) == ["Recall@5", "PRecall@5"]
