"""`m2kr.common.hub`: files of the hub, read in part over a network that breaks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from m2kr.common.hub import (
    HubError,
    HubFile,
    HubReader,
    HubUnreachableError,
    hub_listing,
    is_hub_id,
    read_range,
    told_bytes,
)
from tests.hub_server import HubServer, etag_of
from tests.m2kr.hub import client_of

NAME = "owner/data"
CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server, client_of(server, tmp_path / "home"):
        server.publish(NAME, {"a/big.zip": CONTENT, "a/b/deep.tar": b"deep", "small.txt": b"small"})
        yield server


def big(listing_of: str = NAME) -> HubFile:
    (file,) = (file for file in hub_listing(listing_of).files if file.path == "a/big.zip")
    return file


def test_a_listing_has_all_files_of_the_newest_commit_over_all_pages(hub: HubServer) -> None:
    many = {f"x/{number}.bin": bytes([number]) * number for number in range(20)}
    commit = hub.publish(NAME, {**many, "small.txt": b"small"})
    listing = hub_listing(NAME)
    assert listing.commit == commit
    assert {(file.path, file.size, file.etag) for file in listing.files} == {
        (path, len(content), etag_of(path, content)) for path, content in {**many, "small.txt": b"small"}.items()
    }
    assert len(hub_listing(NAME, "x").files) == 20


def test_parts_of_files_are_read_and_no_more_is_sent(hub: HubServer) -> None:
    file = big()
    assert read_range([file], 1000, 1900) == CONTENT[1000:1900]
    assert hub.sent["a/big.zip"] == 900
    assert read_range([file, file], len(CONTENT) - 3, len(CONTENT) + 4) == CONTENT[-3:] + CONTENT[:4]


def test_where_the_hub_sends_us_is_remembered_until_it_is_refused(hub: HubServer) -> None:
    file = big()
    for _ in range(3):
        read_range([file], 0, 10)
    resolved = f"GET /datasets/{NAME}/resolve/{file.commit}/a/big.zip"
    assert hub.asked.count(resolved) == 1
    hub.expire_links()
    assert read_range([file], 5, 10) == CONTENT[5:10]
    assert hub.asked.count(resolved) == 2


def test_a_token_is_sent_to_the_hub_and_not_to_where_it_sends_us(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(HubError, match=r"no dataset owner/data, or not for you.*HF_TOKEN"):
        hub_listing(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read_range([big()], 0, 4) == CONTENT[:4]  # the store refuses whoever sends it one


def test_a_connection_that_is_cut_is_taken_up_where_it_was(hub: HubServer) -> None:
    file = big()
    hub.cut["a/big.zip"] = [100_000, 0, 1, 500_000]
    assert read_range([file], 0, file.size) == CONTENT
    assert hub.sent["a/big.zip"] == file.size  # nothing twice


def test_a_hub_that_is_busy_is_asked_again(hub: HubServer) -> None:
    hub.fail["a/big.zip"] = [503, 429, 500]
    assert read_range([big()], 7, 9) == CONTENT[7:9]


def test_a_network_that_stays_away_is_one_error_with_a_remedy(hub: HubServer) -> None:
    file = big()
    hub.cut["a/big.zip"] = [1000, *[0] * 20]
    with pytest.raises(HubUnreachableError, match=r"owner/data/a/big\.zip .* byte 1,000 .* same command again"):
        read_range([file], 0, file.size)


def test_a_file_that_is_gone_is_said_without_trying_on(hub: HubServer) -> None:
    file = big()
    hub.fail["a/big.zip"] = [404] * 9
    with pytest.raises(HubError, match=r"owner/data/a/big\.zip"):
        read_range([file], 0, 10)
    assert len(hub.fail["a/big.zip"]) == 8


@pytest.mark.parametrize("changed", [CONTENT[::-1], CONTENT + b"more", CONTENT[:-1]])
def test_a_file_that_is_another_than_listed_is_not_read(hub: HubServer, changed: bytes) -> None:
    file = big()
    hub.files(NAME, file.commit)["a/big.zip"] = changed  # type: ignore[index]
    with pytest.raises(HubError, match="no longer the file that the hub lists"):
        read_range([file], 0, 10)
    hub.files(NAME, file.commit)["a/big.zip"] = CONTENT  # type: ignore[index]
    read_range([file], 0, 10)
    hub.files(NAME, file.commit)["a/big.zip"] = CONTENT + b"more"  # type: ignore[index]
    with pytest.raises(HubError, match="no longer the file that the hub lists"):
        read_range([file], 0, 10)  # of the store, which is asked straight away


def test_a_store_that_sends_whole_files_only_is_said_before_gigabytes_come(hub: HubServer) -> None:
    hub.ranges = False
    file = big()
    with pytest.raises(HubError, match="does not answer range requests"):
        read_range([file], 0, 10)
    assert read_range([file], 0, file.size) == CONTENT  # which is what was asked for


def test_a_reader_is_a_file_for_zipfile_and_reading_on_takes_no_new_request(hub: HubServer) -> None:
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}.txt", str(number) * 50)
    hub.publish(NAME, {"a/big.zip": made.getvalue()})
    file = big()
    with zipfile.ZipFile(io.BufferedReader(HubReader([file]), 1 << 16)) as found:
        assert found.read("17.txt") == b"17" * 50
        assert found.testzip() is None
    reader = HubReader([file])
    hub.asked.clear()
    content = b""
    while block := reader.read(1000):
        content += block
        reader.seek(10, io.SEEK_CUR)
        content += made.getvalue()[len(content) : len(content) + 10]
    assert content == made.getvalue()
    assert len(hub.asked) == 1


def test_without_a_network_the_last_listing_goes_for_it_and_says_so(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = hub_listing(NAME, "a")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = hub_listing(NAME, "a")
    assert (offline.files, offline.commit) == (online.files, online.commit)
    assert offline.unreachable == "HF_HUB_OFFLINE is set"
    with pytest.raises(HubUnreachableError, match=r"owner/data/other \(HF_HUB_OFFLINE is set\)"):
        hub_listing(NAME, "other")


@pytest.mark.parametrize(
    ("name", "folder", "revision", "says"),
    [
        ("owner/other", "", None, "no dataset owner/other"),
        (NAME, "nowhere", None, "owner/data has no folder 'nowhere'"),
        (NAME, "", "no-branch", "no such revision"),
    ],
)
def test_what_the_hub_has_not_is_said(hub: HubServer, name: str, folder: str, revision: str | None, says: str) -> None:
    with pytest.raises(HubError, match=says):
        hub_listing(name, folder, revision=revision)


def test_a_hub_that_keeps_silent_is_left_after_its_time(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.1")
    hub.lock.acquire()
    monkeypatch.setattr(hub, "has", lambda _: hub.lock.acquire() and False)
    try:
        with pytest.raises(HubUnreachableError, match=r"timed out|did not answer"):
            hub_listing(NAME)
    finally:
        hub.lock.release()


def test_names_and_sizes() -> None:
    assert is_hub_id("BByrneLab/M2KR_Images")
    assert not any(map(is_hub_id, ["raw", "a/b/c", "./a", "/a/b", "~/a", "a/", "../a", ""]))
    assert [told_bytes(size) for size in (12, 43_000, 43_210_000, 8_960_000_000)] == [
        "12 bytes",
        "43 kB",
        "43.2 MB",
        "8.96 GB",
    ]
