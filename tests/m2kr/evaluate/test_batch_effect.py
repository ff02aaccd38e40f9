"""What batches do to vectors: measured in every evaluation, said where it is more than noise, and marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.bm25 import BM25
from baselines.minis import preflmr_mini
from leaderboard.marks import marks_of
from m2kr.dataset import TaskData, load_task
from m2kr.evaluate import batch_effect
from m2kr.evaluate.batch_effect import vector_difference
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.results.record import over_batch_limit
from m2kr.results.table import table
from tests.m2kr.evaluating import Multi, Preparing, Seeing, Single, evaluated, kill, run_of, text_of


@pytest.fixture(autouse=True)
def _sampled(_each_input_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_effect, "SAMPLED", 16)


class FilledUp(Single):
    """Fills texts up to the longest of their batch, and counts what it filled in."""

    def _kept(self, kept: list[Any], inputs: Sequence[Any], batch_size: int) -> Any:
        super()._kept(kept, inputs, batch_size)
        return np.concatenate(
            [self.filled(inputs[first : first + batch_size]) for first in range(0, len(inputs), batch_size)]
        )

    def filled(self, inputs: Sequence[Any]) -> np.ndarray[Any, Any]:
        longest = max(len(text_of(item)) for item in inputs)
        more = np.array([[longest / len(text_of(item)) - 1] for item in inputs], dtype=np.float32)
        return self.encode(inputs) + more * np.eye(1, 16, dtype=np.float32)  # type: ignore[no-any-return]


class OneMore(Multi):
    """Gives an item a vector more where it is not alone."""

    def encode(self, inputs: Sequence[Any]) -> Any:
        found = super().encode(inputs)
        return found if len(inputs) == 1 else [np.concatenate([item, item[:1]]) for item in found]


@pytest.mark.parametrize("make", [FilledUp, OneMore])
def test_a_model_whose_vectors_depend_on_the_batch_is_found_out_said_and_marked(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    result = evaluate_task(make(), okvqa, tmp_path, TaskOptions(ignore_images=True))
    effect = result["batch_effect"]
    assert effect is not None
    assert set(effect) == {"passages", "queries"}
    assert all(value > 0.01 for value in effect.values())
    err = capsys.readouterr().err
    assert "alone and in batches of 32" in err
    assert f"up to {max(effect.values()):g} of their length" in err
    assert marks_of(result, {}) == ("made-up", "no-images", "batch-dependent")
    assert "* the model encodes an input differently alone and in a batch" in table([result])


def test_alone_a_model_that_depends_on_the_batch_does_not(okvqa: TaskData, tmp_path: Path) -> None:
    result = evaluated(FilledUp(), okvqa, tmp_path, batch_size=1)
    assert result["batch_effect"] == {"passages": 0.0, "queries": 0.0}


def test_float_noise_is_recorded_and_neither_said_nor_marked(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_task(preflmr_mini(), okvqa, tmp_path, TaskOptions(ignore_images=True))
    effect = result["batch_effect"]
    assert effect is not None
    assert set(effect) == {"passages", "queries"}
    assert all(value < 1e-4 for value in effect.values())
    assert not over_batch_limit(effect, "float32")
    assert capsys.readouterr().err == ""
    assert "batch-dependent" not in marks_of(result, {})


def test_the_sample_is_spread_over_the_tables_and_part_of_no_encoding(okvqa: TaskData, tmp_path: Path) -> None:
    made, other = Single(), Single()
    result = evaluated(made, okvqa, tmp_path, keep_embeddings=True)
    assert (len(made.read), len(made.asked)) == (2 * 16 + okvqa.passages.height, 2 * 16 + okvqa.queries.height)
    sample = made.asked[:16]
    questions = okvqa.queries["question"].to_list()
    assert (sample[0], sample[-1]) == (questions[0], questions[-1])
    assert made.asked[16:32] == sample
    assert {"batch_effect", "encode_passages", "encode_queries"} <= set(result["seconds"])
    again = evaluated(other, okvqa, tmp_path, rerun=True)
    assert again["reused"] == ["encode_passages", "encode_queries"]
    assert (again["batch_effect"], len(other.read), len(other.asked)) == (result["batch_effect"], 32, 32)


def test_few_inputs_are_all_taken_and_none_twice(built: Path, tmp_path: Path) -> None:
    made = Single()
    evaluated(made, load_task("OKVQA", built, limit=3), tmp_path)
    assert len(made.asked) == 3 * 3


@pytest.mark.parametrize("make", [Seeing, Preparing])
def test_pictures_are_in_the_sample(built: Path, world: Path, tmp_path: Path, make: Any) -> None:
    data = load_task("LLaVA", built, images=world)
    made = make()
    evaluate_task(made, data, tmp_path, TaskOptions(quiet=True))
    assert len(made.asked) == 2 * 16 + data.queries.height
    assert all(np.array_equal(item["image"], made.asked[16 + row]["image"]) for row, item in enumerate(made.asked[:16]))
    assert {np.asarray(item["image"]).ndim for item in made.asked} == {3}


def test_a_model_without_vectors_has_none(okvqa: TaskData, tmp_path: Path) -> None:
    result = evaluated(BM25(), okvqa, tmp_path)
    assert (result["batch_effect"], "batch_effect" in result["seconds"]) == (None, False)


def test_after_a_kill_it_is_what_it_was(okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("m2kr.evaluate.task.write_record", kill)
        with pytest.raises(ZeroDivisionError):
            evaluated(FilledUp(), okvqa, tmp_path / "killed")
    again = FilledUp()
    found = evaluated(again, okvqa, tmp_path / "killed")
    whole = evaluated(FilledUp(), okvqa, tmp_path / "whole")
    assert found["batch_effect"] == whole["batch_effect"]
    assert not again.asked
    assert run_of(tmp_path / "killed", "OKVQA") == run_of(tmp_path / "whole", "OKVQA")


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 0.0], [-1.0, 0.0], 2.0),
        ([1.0, 0.0], [0.0, 1.0], 2**0.5),
        ([100.0, 0.0], [100.0, 0.1], 1e-3),  # the unit is no matter
        ([1.0, 0.0], [2.0, 0.0], 0.5),  # of one direction, and another length
        ([0.0, 0.0], [0.0, 1.0], 1.0),
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], 2.0),
        ([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], 2.0),
        (np.zeros((0, 2)), np.zeros((0, 2)), 0.0),
    ],
)
def test_the_difference_is_that_of_the_worst_vector_by_its_length(one: Any, other: Any, wanted: float) -> None:
    first, second = np.array(one, dtype=np.float32), np.array(other, dtype=np.float32)
    assert vector_difference(first, second) == pytest.approx(wanted, rel=1e-5)
    assert vector_difference(second, first) == pytest.approx(wanted, rel=1e-5)


def test_no_cosine_changes_by_more_than_it() -> None:
    rng = np.random.default_rng(0)
    query, one = (vector / np.linalg.norm(vector) for vector in rng.standard_normal((2, 8)))
    other = one + 0.1 * rng.standard_normal(8)
    other /= np.linalg.norm(other)
    aligned = (one - other) / np.linalg.norm(one - other)
    for direction in (query, aligned):
        assert abs(direction @ one - direction @ other) <= vector_difference(one, other) + 1e-12
    assert abs(aligned @ one - aligned @ other) == pytest.approx(vector_difference(one, other))
