"""`m2kr.evaluate` with a search on several devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m2kr.common.measure import hardware
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.task import main
from m2kr.results.record import read_result
from m2kr.search.maxsim import Block
from tests.m2kr.evaluating import Constant, Multi, Single, evaluated, run_of


@pytest.mark.parametrize("make", [Single, Multi, Constant])
def test_devices_share_the_passages_and_change_no_byte(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    whole, chunks = Block.cut, []
    monkeypatch.setattr(Block, "cut", lambda *given: chunks.append(given[-1]) or whole(*given))  # type: ignore[func-returns-value]
    one = evaluated(make(), okvqa, tmp_path / "one", search_memory=1 << 19)
    alone = len(chunks)
    two = evaluated(make(), okvqa, tmp_path / "two", search_memory=1 << 19, device="cpu,cpu")
    assert len(chunks) > 2 * alone or make is not Multi  # vectors of one each are a single chunk
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")
    assert (one["device"], two["device"]) == ("cpu", "cpu,cpu")
    assert (one["metrics"], one["hardware"], one["key"]) == (two["metrics"], two["hardware"], two["key"])


def test_only_the_search_gets_several_devices(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: list[Any]
) -> None:
    from m2kr.search import exact as search

    whole, asked = search.search, []

    def searched(*given: Any, **named: Any) -> Any:
        asked.append(named["device"])
        return whole(*given, **named)

    monkeypatch.setattr(search, "search", searched)
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path), "--quiet"]
    assert main([*arguments, "--device", "cpu, cpu", "--store-dtype", "int8"]) == 0
    assert registered[0].given["device"] == "cpu"
    assert asked == ["cpu, cpu"] * 3  # the evaluation, and before and after for the effect
    result = read_result(tmp_path / "fake-single" / "MSMARCO.json")
    assert (result["device"], result["store_dtype"], result["hardware"]) == (
        "cpu, cpu",
        "int8",
        hardware("cpu"),
    )


@pytest.mark.parametrize("device", ["cpu,nothing", "cpu,meta", "cpu,"])
def test_devices_that_are_not_there_are_refused_before_a_model_is_loaded(
    built: Path, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str], device: str
) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path)]
    assert run_command(main, [*arguments, "--device", device]) == 2
    assert "device" in capsys.readouterr().err
    assert not registered
    made = Single()
    with pytest.raises(M2KRError, match="device"):
        evaluated(made, load_task("MSMARCO", built), tmp_path, device=device)
    assert not made.read
