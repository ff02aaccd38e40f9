"""`m2kr.formats.hub`: tables of the hub, of which only those asked for are fetched."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from m2kr.common.hub import HubError, HubUnreachableError
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.formats.hub import hub_source, local_folder, local_tasks
from m2kr.tasks import HUB_ID
from tests.hub_server import HubServer, files_in
from tests.m2kr.hub import client_of, tables


@pytest.fixture
def hub(built: Path, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server, client_of(server, tmp_path / "home"):
        server.publish(HUB_ID, tables(built, ["MSMARCO", "OKVQA", "WIT"]))
        yield server


def test_only_the_tables_of_the_tasks_and_the_split_are_fetched(
    hub: HubServer, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tasks = local_tasks(HUB_ID, "okvqa", "valid")
    assert [task.key for task in tasks] == ["OKVQA"]
    fetched = {
        path: len(content)
        for path, content in files_in(built).items()
        if path.startswith(("OKVQA_data/valid-", "OKVQA_passages/valid_passages-"))
    }
    assert dict(hub.sent) == fetched
    said = capsys.readouterr().err
    assert f"fetching OKVQA of {HUB_ID}@" in said
    assert f"{len(fetched)} files" in said
    assert constants.HF_HUB_CACHE in said
    assert hub_source(folder).startswith(f"{HUB_ID}@")
    hub.forget()
    assert local_folder(HUB_ID, "OKVQA", "valid") == folder
    assert not hub.sent
    assert capsys.readouterr().err == ""


def test_all_are_those_that_are_there_and_what_is_not_is_said(hub: HubServer) -> None:
    assert [task.key for task in local_tasks(HUB_ID, "all", "test", quiet=True)[1]] == ["WIT", "MSMARCO", "OKVQA"]
    hub.forget()
    with pytest.raises(HubError, match=r"no test split of KVQA; it has one of WIT, MSMARCO, OKVQA"):
        local_folder(HUB_ID, "OKVQA,KVQA", "test")
    with pytest.raises(HubError, match="holds no task with a dev split"):
        local_folder(HUB_ID, "all", "dev")
    assert not hub.sent


def test_a_task_of_the_hub_is_the_task_that_was_published(hub: HubServer, built: Path) -> None:
    here, there = load_task("OKVQA", built), load_task("OKVQA", HUB_ID)
    assert there.queries.equals(here.queries)
    assert there.passages.equals(here.passages)
    assert there.source.startswith(f"{HUB_ID}@")
    assert (there.fingerprint.startswith("no-manifest-"), there.synthetic) == (True, False)
    there.check_unchanged()


def test_a_benchmark_of_ones_own_keeps_its_manifest(hub: HubServer, built: Path) -> None:
    hub.publish("me/mine", files_in(built))
    there, here = load_task("MSMARCO", "me/mine"), load_task("MSMARCO", built)
    assert (there.fingerprint, there.synthetic) == (here.fingerprint, True)


def test_tables_that_the_hub_has_converted_are_read(hub: HubServer, built: Path) -> None:
    hub.publish("me/csv", {"data.csv": b"a,b\n"})
    converted = {}
    for path, content in tables(built, ["OKVQA"]).items():
        if path.endswith(".parquet"):
            config, name = path.split("/")
            converted[f"{config}/{name.split('-')[0]}/0000.parquet"] = content
    hub.publish("me/csv", converted, "refs/convert/parquet")
    assert load_task("OKVQA", "me/csv").queries.equals(load_task("OKVQA", built).queries)


def test_a_new_commit_is_other_data(hub: HubServer, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_task("OKVQA", HUB_ID)
    capsys.readouterr()
    files = tables(built, ["OKVQA"])
    test = next(path for path in files if path.startswith("OKVQA_data/test-"))
    before.queries.head(3).write_parquet(made := io.BytesIO())
    files[test] = made.getvalue()
    hub.publish(HUB_ID, files)
    hub.forget()
    after = load_task("OKVQA", HUB_ID)
    assert after.fingerprint != before.fingerprint
    assert after.source != before.source
    assert list(hub.sent) == [test]  # the other is the same file
    assert "1 files" in capsys.readouterr().err


def test_a_connection_that_is_cut_goes_on_and_finished_shards_stay(hub: HubServer, built: Path) -> None:
    cut = next(path for path in tables(built, ["OKVQA"]) if path.startswith("OKVQA_passages/test_"))
    hub.cut[cut] = [1000]
    assert load_task("OKVQA", HUB_ID).passages.equals(load_task("OKVQA", built).passages)
    hub.publish("me/other", tables(built, ["OKVQA"]))
    hub.fail[cut] = [404] * 20
    with pytest.raises(HubError, match=r"1 of 2 files are in .* same command again"):
        load_task("OKVQA", "me/other")
    hub.fail.clear()
    hub.forget()
    load_task("OKVQA", "me/other")
    assert list(hub.sent) == [cut]


def test_without_a_network_the_cache_is_enough_or_one_line_says_what_lacks(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = load_task("OKVQA", HUB_ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_task("OKVQA", HUB_ID).fingerprint == online.fingerprint
    with pytest.raises(HubError, match=r"WIT of .*HF_HUB_OFFLINE is set.*lacks 2 of 2 files"):
        load_task("WIT", HUB_ID)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        load_task("WIT", "me/never-seen")


def test_what_another_program_has_fetched_is_read_without_a_network(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(HUB_ID, repo_type="dataset", allow_patterns=["OKVQA_*"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_task("OKVQA", HUB_ID).queries.height
    with pytest.raises(M2KRError, match="no WIT_data"):
        load_task("WIT", HUB_ID)


def test_a_dataset_that_is_not_there_is_said(hub: HubServer) -> None:
    with pytest.raises(HubError, match="the hub has no dataset me/nothing"):
        load_task("OKVQA", "me/nothing")
