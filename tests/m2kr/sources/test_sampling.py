"""What is drawn depends on ids, seed and purpose alone."""

import dataclasses

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.sources import sampling
from m2kr.sources.sampling import draw, instruction, sample, sample_lazily
from m2kr.tasks import TASKS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers())
def test_chance_depends_on_the_id_alone(ids, seed):
    numbers = draw(ids, seed, "test")
    assert list(numbers) == [draw([name], seed, "test")[0] for name in ids]


def test_chance_differs_by_seed_and_purpose_and_is_uniform():
    ids = [str(number) for number in range(20_000)]
    one, two, three = draw(ids, 0, "a"), draw(ids, 1, "a"), draw(ids, 0, "b")
    assert not (one == two).any()
    assert not (one == three).any()
    assert abs((one >> 63).mean() - 0.5) < 0.02


def test_chance_is_what_it_was_in_earlier_versions():
    # Published benchmarks rest on these numbers: a change of them changes every sample and instruction.
    assert [int(number) for number in draw(["1", "königin"], 0, "MSMARCO pool")] == [
        11681799304262170371,
        8061643569637860176,
    ]


def test_a_sample_keeps_the_order_and_does_not_depend_on_it():
    ids = pl.DataFrame({"id": [str(number) for number in range(100)]})
    kept = sample(ids, 10, 0, "test")["id"].to_list()
    assert kept == sorted(kept, key=int)
    assert set(sample(ids.reverse(), 10, 0, "test")["id"]) == set(kept)
    assert sample(ids, 100, 0, "test").height == 100


@pytest.mark.parametrize("size", [0, 1, 7, 99, 100, 1_000])
def test_a_sample_is_the_same_where_few_rows_are_held(monkeypatch, size):
    monkeypatch.setattr(sampling, "_BATCH_ROWS", 5)
    ids = pl.DataFrame({"id": [str(number % 90) for number in range(100)], "n": range(100)})  # some of equal chance
    assert sample_lazily(ids.lazy(), size, 0, "test", "id").equals(sample(ids, size, 0, "test"))
    assert sample_lazily(ids.clear().lazy(), size, 0, "test", "id").equals(ids.clear())


def test_an_instruction_belongs_to_its_question():
    frame = pl.DataFrame({"id": [str(number) for number in range(300)]})
    task = dataclasses.replace(TASKS["OKVQA"], instructions=("one:", "two:", "three:"))
    chosen = frame.with_columns(instruction(task, "id", 0))
    again = frame.reverse().with_columns(instruction(task, "id", 0)).reverse()
    assert chosen.equals(again)
    assert set(chosen["instruction"]) == set(task.instructions)
