"""`leaderboard.records` and `leaderboard.marks`: result files, in what order they stand, and what sets them apart."""

from __future__ import annotations

import pytest

from leaderboard.marks import marks_of, usual_data
from leaderboard.records import models_of, read_records
from m2kr.errors import M2KRError
from tests.made_results import a_result, an_answer


def usual(records):
    return usual_data(record.result for record in records)


@pytest.mark.parametrize("made", [a_result, an_answer])
@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({}, ()),
        ({"dataset": "another"}, ("other-data",)),
        ({"nano": True, "seed": 0}, ("nano",)),
        ({"limited": True}, ("limited",)),
        ({"ignored_inputs": ["image"]}, ("no-images",)),
        ({"batch_effect": {"passages": 0.0, "queries": 0.002}}, ("batch-dependent",)),
        ({"batch_effect": {"queries": 0.002}, "dtype": "float16"}, ()),
        ({"passage_images": "read"}, ("passage-images",)),
        ({"passage_images": "ignored"}, ()),
        ({"search": "plaid"}, ("approximate",)),
        ({"split": "valid"}, ("other-split",)),
        ({"synthetic": True, "ignored_inputs": ["image"]}, ("made-up", "no-images")),
    ],
)
def test_what_sets_a_result_apart(made, changes, marks):
    assert marks_of(made(**changes), {("OKVQA", "test", False): "0123456789abcdef"}) == marks


def test_results_of_different_data_are_never_ranked_together(make, make_answer, results):
    make("a")
    make("b", dataset="another")
    make_answer("a", answers_key="1")
    make_answer("b", answers_key="2", dataset="another")
    runs, answers = read_records(results)
    assert {record.marked({}).group for record in runs + answers} == {"run"}
    assert len({record.pool for record in runs}) == 2
    assert len({record.pool("VQA") for record in answers}) == 2


@pytest.mark.parametrize(("datasets", "most"), [(("bbb", "aaa", "bbb"), "bbb"), (("bbb", "aaa"), "aaa")])
def test_the_usual_data_are_those_of_most_and_of_equally_many_not_those_of_the_first_folder(
    make, results, datasets, most
):
    for number, dataset in enumerate(datasets):
        make(f"folder-{number}", dataset=dataset)
    assert usual(read_records(results)[0]) == {("OKVQA", "test", False): most}


def test_models_keep_their_results_together(make, results):
    make("x--y", model="x/y")
    make("x--y", model="x/y", task="WIT")
    make("z", model="z")
    models = models_of(read_records(results)[0])
    assert [(model.name, len(model.records), model.mixed) for model in models] == [("x/y", 2, False), ("z", 1, False)]


def test_different_settings_in_one_folder_are_noticed(make, results):
    make(model_settings={"k1": 1.2})
    make(task="WIT", model_settings={"k1": 0.9})
    (model,) = models_of(read_records(results)[0])
    assert model.mixed


def test_folders_whose_names_become_alike_have_pages_of_their_own(make, results):
    make("a b")
    make("a-b")
    assert len({record.slug for record in read_records(results)[0]}) == 2


def test_a_result_stands_once(make, make_answer, results):
    first, again = make(), make(name="again.json")
    with pytest.raises(M2KRError, match="one model and task") as raised:
        read_records(results)
    assert str(first) in str(raised.value)
    assert str(again) in str(raised.value)
    again.unlink()
    make_answer("a")
    make_answer("b")
    with pytest.raises(M2KRError, match="one model and task"):
        read_records(results)


def test_results_have_to_be_a_folder(tmp_path):
    with pytest.raises(M2KRError, match="no folder of results"):
        read_records(tmp_path / "nowhere")


def test_readers_stand_together_from_no_passages_to_the_positive_ones(answered):
    _, answers = read_records(answered)
    assert [(record.result["task"], record.passages) for record in answers] == [
        ("OKVQA", "none"),
        ("OKVQA", "bm25"),
        ("OKVQA", "first-words"),
        ("OKVQA", "oracle"),
        ("EVQA", "none"),
        ("EVQA", "oracle"),
    ]
