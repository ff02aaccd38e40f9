"""Result files: what is read, what is refused, and in what order they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2kr.common.files import write_json
from m2kr.errors import M2KRError
from m2kr.results.record import Result, over_batch_limit, read_result, read_results
from m2kr.results.table import table
from tests.made_results import a_quantised_result as a_result


def test_a_result_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    result = a_result(model="modèle 車")
    write_json(tmp_path / "m" / "OKVQA.json", result)
    assert read_result(tmp_path / "m" / "OKVQA.json") == result
    first = (tmp_path / "m" / "OKVQA.json").read_bytes()
    write_json(tmp_path / "m" / "OKVQA.json", result)
    assert (tmp_path / "m" / "OKVQA.json").read_bytes() == first


LATER = [key for key, kind in Result.__annotations__.items() if "NotRequired" in str(kind)]
"""Keys that files of earlier versions lack."""


@pytest.mark.parametrize("key", [key for key in Result.__annotations__ if key not in LATER])
def test_a_result_that_lacks_a_key_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    result: dict[str, Any] = dict(a_result())
    del result[key]
    (tmp_path / "OKVQA.json").write_text(json.dumps(result))
    with pytest.raises(M2KRError, match=rf"OKVQA\.json is no result file: {key} is missing"):
        read_result(tmp_path / "OKVQA.json")


def test_a_result_of_an_earlier_version_is_read_without_the_later_keys(tmp_path: Path) -> None:
    assert {"queries_with_absent_positive", "batch_effect"} <= set(LATER)
    result = {key: value for key, value in a_result().items() if key not in LATER}
    write_json(tmp_path / "m" / "OKVQA.json", result)
    assert read_result(tmp_path / "m" / "OKVQA.json") == result
    assert "my-model*" not in table([read_result(tmp_path / "m" / "OKVQA.json")])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("queries_with_absent_positive", None),
        ("queries_with_absent_positive", "3"),
        ("batch_effect", {"passages": "low"}),
    ],
)
def test_a_later_key_that_is_there_is_looked_at(tmp_path: Path, key: str, value: object) -> None:
    write_json(tmp_path / "OKVQA.json", a_result(**{key: value}))
    with pytest.raises(M2KRError, match=rf"OKVQA\.json is no result file: .*{key}"):
        read_result(tmp_path / "OKVQA.json")


@pytest.mark.parametrize(
    ("effect", "dtype", "over"),
    [
        ({"passages": 9e-4, "queries": 1e-3}, "float32", False),
        ({"passages": 1e-7, "queries": 1.1e-3}, "float32", True),
        ({"passages": 1.66, "queries": 0.0}, "bfloat16", True),
        ({"passages": 5e-3}, "float16", False),
        ({"passages": 2e-2}, "bfloat16", False),
        (None, "unknown", False),
    ],
)
def test_what_batches_do_is_too_much_where_it_is_more_than_noise(
    effect: dict[str, float] | None, dtype: str, over: bool
) -> None:
    assert over_batch_limit(effect, dtype) is over


@pytest.mark.parametrize("content", ["", "{", "[]", "[1, 2]", "3", "null", '"format"', "{}", "\x00"])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "OKVQA.json").write_text(content)
    with pytest.raises(M2KRError, match=r"OKVQA\.json is no result file"):
        read_result(tmp_path / "OKVQA.json")


def test_a_result_of_a_later_format_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "OKVQA.json").write_text(json.dumps({"format": 2, "unheard of": True}))
    with pytest.raises(M2KRError, match="has format 2; this version reads 1"):
        read_result(tmp_path / "OKVQA.json")


def test_a_result_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "m" / "NEW.json", a_result(task="NEW"))
    with pytest.raises(M2KRError, match="'NEW', which this version does not know"):
        read_results(tmp_path)


def test_results_of_a_folder_come_by_task_split_and_model(tmp_path: Path) -> None:
    for model, task, split in [
        ("b", "EVQA", "test"),
        ("b", "WIT", "valid"),
        ("a", "MSMARCO", "test"),
        ("b", "MSMARCO", "test"),
    ]:
        write_json(tmp_path / model / f"{task}.json", a_result(model=model, task=task, split=split))
    write_json(tmp_path / "c" / "WIT.json", a_result(model="c", task="WIT", split="test"))
    (tmp_path / "b" / "WIT.run.trec.gz").write_bytes(b"")
    found = [(result["task"], result["split"], result["model"]) for result in read_results(tmp_path)]
    assert found == [
        ("WIT", "test", "c"),
        ("WIT", "valid", "b"),
        ("MSMARCO", "test", "a"),
        ("MSMARCO", "test", "b"),
        ("EVQA", "test", "b"),
    ]
