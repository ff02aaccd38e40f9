"""Result files: what is read, what is refused, and in what order they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2kr.common.files import write_json
from m2kr.errors import M2KRError
from m2kr.results.record import Result, read_result, read_results
from tests.made_results import a_quantised_result as a_result


def test_a_result_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    result = a_result(model="modèle 車")
    write_json(tmp_path / "m" / "OKVQA.json", result)
    assert read_result(tmp_path / "m" / "OKVQA.json") == result
    first = (tmp_path / "m" / "OKVQA.json").read_bytes()
    write_json(tmp_path / "m" / "OKVQA.json", result)
    assert (tmp_path / "m" / "OKVQA.json").read_bytes() == first


@pytest.mark.parametrize("key", list(Result.__annotations__))
def test_a_result_that_lacks_a_key_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    result: dict[str, Any] = dict(a_result())
    del result[key]
    (tmp_path / "OKVQA.json").write_text(json.dumps(result))
    with pytest.raises(M2KRError, match=rf"OKVQA\.json is no result file: .*`{key}`"):
        read_result(tmp_path / "OKVQA.json")


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
