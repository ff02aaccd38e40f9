"""`python -m m2kr.evaluate` with nothing here: tables and pictures of the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2kr.errors import run_command
from m2kr.evaluate.__main__ import main
from m2kr.images import hub as hub_images
from m2kr.results.record import read_result
from m2kr.tasks import HUB_ID, HUB_IMAGES
from tests.hub_server import HubServer
from tests.m2kr.hub import client_of, image_dataset, published

SEEN = ("WIT", "KVQA", "OVEN", "LLaVA", "OKVQA", "Infoseek", "EVQA")


@pytest.fixture
def hub(built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with HubServer() as server:
        published(server, built, image_dataset(world, tmp_path), SEEN)
        yield server


def test_one_command_from_nothing_to_scores_that_are_those_of_the_folders(
    hub: HubServer,
    built: Path,
    world: Path,
    tmp_path: Path,
    registered: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with client_of(hub, tmp_path / "home"):
        assert main(["--model", "preparing"]) == 0
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith(f"fetching WIT, KVQA, OVEN, LLaVA, OKVQA, Infoseek, EVQA of {HUB_ID}@")
        assert f"of {HUB_ID}@" in said[1]
        assert f"pictures: {HUB_IMAGES}" in said[1]
        assert any("are to be read of the hub, in all" in line for line in said)
        assert all(any(f"{key}: fetching" in line for line in said) for key in SEEN)
        tables = {path for path in hub.sent if path.endswith(".parquet")}
        assert tables == {path for path in tables if path.split("/")[1].startswith(("test-", "test_passages-"))}
        hub.forget()
        assert main(["--model", "preparing", "--out", "again", "--quiet"]) == 0
        assert not hub.sent
        assert capsys.readouterr().err == ""
    there = ["--data", str(built), "--images", str(world), "--out", "local", "--quiet", "--tasks", ",".join(SEEN)]
    assert main(["--model", "preparing", *there]) == 0
    for key in SEEN:
        result, local = (read_result(Path(out, registered[0].name, f"{key}.json")) for out in ("results", "local"))
        assert (result["metrics"], result["pictures"]) == (local["metrics"], local["pictures"])
        assert result["data_source"].startswith(f"{HUB_ID}@")
        assert str(result["image_source"]).startswith(f"{HUB_IMAGES}@")
        assert (local["data_source"], local["image_source"]) == ("folder", "folder")


def test_a_limit_holds_for_what_is_fetched(
    hub: HubServer, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with client_of(hub, tmp_path / "home"):
        assert main(["--model", "preparing", "--tasks", "OKVQA", "--limit", "2"]) == 0
    assert "OKVQA: fetching 2 of 2 pictures" in capsys.readouterr().err


def test_too_much_for_who_did_not_ask_is_refused_before_the_first_task(
    hub: HubServer,
    tmp_path: Path,
    registered: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub_images, "UNASKED_BYTES", 1000)
    with client_of(hub, tmp_path / "home"):
        command = ["--model", "preparing", "--tasks", "OKVQA,EVQA"]
        assert run_command(main, command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "OKVQA: " in error
        assert "EVQA: " in error
        assert "Pass --images hub" in error
        assert not Path("results").exists()
        assert main([*command, "--images", "hub"]) == 0


def test_a_finished_result_needs_no_pictures(hub: HubServer, tmp_path: Path, registered: list[Any]) -> None:
    with client_of(hub, tmp_path / "home"):
        assert main(["--model", "preparing", "--tasks", "OKVQA", "--quiet"]) == 0
    hub.forget()
    with client_of(hub, tmp_path / "another"):
        assert main(["--model", "preparing", "--tasks", "OKVQA", "--quiet"]) == 0
        assert not any(path.startswith("OKVQA/") for path in hub.sent)


def test_a_model_scores_in_a_process_of_its_own_that_knows_the_hub_by_its_variables(
    hub: HubServer, tmp_path: Path
) -> None:
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "M2KR_CACHE": str(tmp_path / "cache")}
    model = Path(__file__).with_name("remote_model.py")  # which loads quickly
    command = [sys.executable, "-m", "m2kr.evaluate", "--model", f"{model}:Hashing", "--tasks", "OVEN", "--limit", "8"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])}
    )
    assert done.returncode == 0, done.stderr
    assert "OVEN: fetching" in done.stderr
    assert "hashing" in done.stdout
    result = read_result(Path("results", "hashing", "OVEN.json"))
    assert result["metrics"]["Recall@10"] > 0
    assert str(result["image_source"]).startswith(f"{HUB_IMAGES}@")
