"""`m2kr.images.hub`: pictures out of archives of the hub, of which no more is read than they need."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import constants

from m2kr.check import main as check
from m2kr.common.hub import HubError, HubUnreachableError, hub_cache
from m2kr.errors import M2KRError
from m2kr.images import hub as hub_images
from m2kr.images import hub_archives, hub_store
from m2kr.images.__main__ import main as pack
from m2kr.images.roots import ImageRoots, image_paths, parse_roots
from m2kr.tasks import HUB_IMAGES, TASKS
from tests.hub_server import Files, HubServer
from tests.m2kr.archives import archived
from tests.m2kr.evaluating import kill
from tests.m2kr.hub import client_of, in_parts, pictures, stored_zip, tarred

DRAW = random.Random(0)
PICTURES: Files = {
    f"val2014/COCO_{number:03d}.jpg": DRAW.randbytes(DRAW.randrange(2_000, 9_000)) for number in range(100)
}
WANTED = list(PICTURES)[3:90:8]


@dataclass
class Client:
    """A hub with one archive of a task, a client of it, and what it says."""

    hub: HubServer
    tmp_path: Path
    said: pytest.CaptureFixture[str]
    task: str = "OKVQA"
    archive: str = "OKVQA/val2014.zip"
    files: Files = field(default_factory=dict)

    def publish(self, archive: str, content: bytes, **others: bytes) -> None:
        self.archive = archive
        self.hub.publish(HUB_IMAGES, {**self.files, archive: content})
        self.hub.forget()

    def roots(self, *values: str) -> ImageRoots:
        """Roots as a new process makes them."""
        return parse_roots(values or ("hub",)).for_task(TASKS[self.task])

    def fetched(self, paths: list[str]) -> dict[str, bytes]:
        """Fetch pictures in a new process, so to say, and return those that are found, with their bytes."""
        roots = self.roots()
        roots.fetch(paths)
        return found(roots, paths)

    @property
    def kept(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in hub_cache(HUB_IMAGES).rglob("*.sqlite*"))


def found(roots: ImageRoots, paths: list[str]) -> dict[str, bytes]:
    return {path: file.read() for path in paths if (file := roots.find(path))}


def wanted(paths: list[str]) -> dict[str, bytes]:
    return {path: PICTURES[path] for path in paths}


def size(paths: list[str]) -> int:
    return sum(len(PICTURES[path]) for path in paths)


@pytest.fixture
def client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Client]:
    with HubServer() as server, client_of(server, tmp_path / "home"):
        yield Client(server, tmp_path, capsys)


# --- zips -----------------------------------------------------------------------------------------------------------


def test_of_a_zip_its_list_and_the_members_are_read(client: Client) -> None:
    content = stored_zip(PICTURES)
    client.publish("OKVQA/val2014.zip", content)
    directory = len(content) - content.index(b"PK\x01\x02")
    assert client.fetched(WANTED) == wanted(WANTED)
    assert size(WANTED) < client.hub.sent[client.archive] <= 1.3 * size(WANTED) + directory
    assert client.kept <= 1.3 * size(WANTED) + 50_000
    said = client.said.readouterr().err
    assert f"fetching {len(WANTED)} of {len(WANTED)} pictures from {HUB_IMAGES}@" in said
    assert "kB of OKVQA/val2014.zip" in said
    assert str(hub_cache(HUB_IMAGES)) in said


def test_what_is_kept_is_not_read_again(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.fetched(WANTED)
    client.hub.forget()
    client.said.readouterr()
    assert client.fetched(WANTED) == wanted(WANTED)
    assert not client.hub.sent
    assert client.said.readouterr().err == ""
    more = [*WANTED, list(PICTURES)[-1]]
    assert client.fetched(more) == wanted(more)
    assert client.hub.sent[client.archive] < len(PICTURES[more[-1]]) + 500  # neither the list nor the others


def test_members_that_lie_together_are_read_by_one_request(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    every = list(PICTURES)
    assert client.fetched(every) == PICTURES
    assert len([asked for asked in client.hub.asked if "store/" in asked]) < 10


def test_members_that_are_packed_or_have_much_in_front_are_read_too(client: Client) -> None:
    files = {"val2014/a.jpg": b"a" * 5000, "val2014/b.jpg": b"b" * 10}
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"\xfe\xca" + (700).to_bytes(2, "little") + bytes(700)
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    client.publish("OKVQA/val2014.zip", made.getvalue())
    assert client.fetched(list(files)) == files


def test_a_zip_in_parts_is_read_as_one(client: Client) -> None:
    client.files = in_parts("OKVQA/all.zip", stored_zip(PICTURES), 4)
    client.publish("OKVQA/README.md", b"")
    assert client.fetched(WANTED) == wanted(WANTED)
    assert sum(client.hub.sent.values()) < 1.3 * size(WANTED) + 20_000
    del client.files["OKVQA/all.zip.002"]
    client.publish("OKVQA/README.md", b"")
    with pytest.raises(HubError, match=r"parts of OKVQA/all\.zip, and not OKVQA/all\.zip\.002"):
        client.fetched(WANTED)


def test_a_damaged_zip_and_a_damaged_member_are_said(client: Client) -> None:
    content = stored_zip(PICTURES)
    client.publish("OKVQA/val2014.zip", content[:-100])
    with pytest.raises(HubError, match=r"OKVQA/val2014\.zip cannot be read as a zip"):
        client.fetched(WANTED)
    at = content.index(PICTURES[WANTED[4]])
    client.publish("OKVQA/val2014.zip", content[:at] + b"?" + content[at + 1 :])
    with pytest.raises(HubError, match=rf"member '{WANTED[4]}' is damaged \(checksum\)"):
        client.fetched(WANTED)
    assert client.fetched(WANTED[:4]) == wanted(WANTED[:4])


def test_a_cut_connection_costs_nothing_twice(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.hub.cut[client.archive] = [7, 0, 500, 0, 3000]
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.hub.sent[client.archive] <= 1.3 * size(WANTED) + 20_000


def test_what_came_before_the_network_went_away_is_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_archives, "_READERS", 1)
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.fetched(WANTED[:1])
    monkeypatch.setattr(client.hub, "cut", {client.archive: _Later(5)})
    with pytest.raises(HubUnreachableError, match="same command again"):
        client.fetched(WANTED)
    client.hub.cut = {}
    client.hub.forget()
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.hub.sent[client.archive] < 0.7 * size(WANTED)


class _Later(list[int]):
    """Cuts: after some answers, all."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0

    def pop(self, _: object = 0) -> int:
        return 0


# --- tars -----------------------------------------------------------------------------------------------------------


def test_a_tar_is_read_once_until_all_is_found(client: Client) -> None:
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    assert client.fetched(WANTED[:-1]) == wanted(WANTED[:-1])
    first = client.hub.sent[client.archive]
    assert first <= len(content)
    said = client.said.readouterr().err
    assert f"for {len(WANTED) - 1} of them up to" in said
    assert "read once, of OKVQA/val2014.tar" in said
    # Those passed by are known: they are read by range requests.
    client.hub.forget()
    passed = list(PICTURES)[10:14]
    assert client.fetched(passed) == wanted(passed)
    assert client.hub.sent[client.archive] <= 1.2 * size(passed)
    # Of what lies behind, the reading goes on.
    client.hub.forget()
    last = list(PICTURES)[-1:]
    assert client.fetched(last) == wanted(last)
    assert client.hub.sent[client.archive] <= len(content) - content.index(PICTURES[WANTED[-2]])


def test_a_tar_keeps_only_what_was_asked_for(client: Client) -> None:
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    assert client.fetched([*WANTED, "val2014/none.jpg"]) == wanted(WANTED)
    assert client.hub.sent[client.archive] <= len(content)
    assert client.kept <= 1.3 * size(WANTED) + 50_000
    client.hub.forget()
    assert client.fetched([*WANTED, "val2014/none.jpg"]) == wanted(WANTED)  # which is known by now
    assert not client.hub.sent


def test_the_smallest_tar_is_read_first_and_the_others_not_at_all_where_it_has_everything(client: Client) -> None:
    others = {f"val2014/other_{number}.jpg": bytes(9_000) for number in range(200)}
    client.files = {"OKVQA/a_train.tar": tarred(others, client.tmp_path), "OKVQA/README.md": b""}
    client.publish("OKVQA/b_val.tar", tarred(PICTURES, client.tmp_path))
    assert client.fetched(WANTED) == wanted(WANTED)
    assert set(client.hub.sent) == {"OKVQA/b_val.tar"}


def test_a_tar_that_is_packed_is_read_from_the_begin_each_time(client: Client) -> None:
    client.publish("OKVQA/val2014.tar.gz", tarred(PICTURES, client.tmp_path, "made.tar.gz"))
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.fetched(WANTED[:2] + list(PICTURES)[:2]) == wanted(WANTED[:2] + list(PICTURES)[:2])
    client.hub.forget()
    assert client.fetched([*WANTED, "val2014/none.jpg"]) == wanted(WANTED)
    assert client.fetched([*WANTED, "val2014/none.jpg"]) == wanted(WANTED)
    assert client.hub.sent[client.archive] <= 1.1 * size(list(PICTURES))  # once, to know


@pytest.mark.parametrize("name", ["made.tar", "made.tar.gz"])
def test_a_damaged_tar_is_said_and_what_came_before_is_kept(client: Client, name: str) -> None:
    content = tarred(PICTURES, client.tmp_path, name)
    client.publish(f"OKVQA/{name}", content[: len(content) // 2 + 77])
    with pytest.raises(HubError, match=rf"OKVQA/{name} is damaged behind byte"):
        client.fetched(WANTED)
    roots = client.roots()
    with pytest.raises(HubError):
        roots.fetch(WANTED)
    assert len(WANTED) / 4 < len(found(roots, WANTED)) < len(WANTED)


def test_a_link_in_a_tar_means_its_member(client: Client) -> None:
    with tarfile.open(path := client.tmp_path / "linked.tar", "w") as archive:
        member = tarfile.TarInfo("val2014/a.jpg")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"four"))
        link = tarfile.TarInfo("val2014/b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "val2014/a.jpg"
        archive.addfile(link)
    client.publish("OKVQA/val2014.tar", path.read_bytes())
    assert client.fetched(["val2014/b.jpg"]) == {"val2014/b.jpg": b"four"}


def test_after_a_kill_the_reading_of_a_tar_goes_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_archives, "_KEPT_AT_ONCE", 10_000)
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    keep = hub_store.HubStore.keep
    calls = iter(range(100))

    def killed(*given: object) -> None:
        (kill if next(calls) == 8 else keep)(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(hub_store.HubStore, "keep", killed)
        with pytest.raises(ZeroDivisionError):
            client.fetched(WANTED)
    client.hub.forget()
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.hub.sent[client.archive] < 0.7 * len(content)


def test_a_tar_is_read_on_over_cut_connections_and_busy_stores(client: Client) -> None:
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    client.hub.cut[client.archive] = [5_000, 0, 100_000, 7]
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.hub.sent[client.archive] <= len(content)


# --- which pictures, where ------------------------------------------------------------------------------------------


def test_an_archive_that_changed_is_noticed_and_nothing_of_the_old_one_is_used(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.fetched(WANTED)
    client.said.readouterr()
    newer = {name: content[::-1] for name, content in PICTURES.items()}
    client.publish("OKVQA/val2014.zip", stored_zip(newer))
    roots = client.roots()
    roots.fetch(WANTED[:3])
    assert found(roots, WANTED) == {path: newer[path] for path in WANTED[:3]}
    assert "OKVQA/val2014.zip of BByrneLab/M2KR_Images has changed" in client.said.readouterr().err
    assert client.kept <= 1.3 * size(WANTED) + 50_000  # what was kept of the old one is gone


def test_a_commit_that_leaves_an_archive_as_it_is_leaves_what_is_kept(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.fetched(WANTED)
    client.files = {"OKVQA/README.md": b"new"}
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    assert client.fetched(WANTED) == wanted(WANTED)
    assert not client.hub.sent


def test_pictures_of_other_spellings_are_found_as_in_archives_on_the_disk(client: Client) -> None:
    client.task = "Infoseek"
    client.publish("Infoseek/val.tar", tarred({"images/oven_04999999.JPEG": b"one"}, client.tmp_path))
    assert client.fetched(["oven_04999999.JPEG"]) == {"oven_04999999.JPEG": b"one"}
    client.publish("Infoseek/val.tar", tarred({"04/oven_04999999.JPEG": b"two", "05/x": b""}, client.tmp_path))
    assert client.fetched(["oven_04999999.JPEG"]) == {"oven_04999999.JPEG": b"two"}
    client.task = "KVQA"
    client.publish("KVQA/KVQAimgs.zip", stored_zip({"KVQAimgs/7.png": b"three"}))
    assert client.fetched(["7.png"]) == {"7.png": b"three"}


def test_folders_here_go_before_the_hub(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    archived(client.tmp_path / "here" / "coco" / "val2014.zip", {WANTED[0]: b"ours"})
    roots = client.roots(str(client.tmp_path / "here"), "hub")
    roots.fetch(WANTED[:2])
    assert found(roots, WANTED[:3]) == {WANTED[0]: b"ours", WANTED[1]: PICTURES[WANTED[1]]}


def test_the_hub_may_be_named_for_one_task_or_by_another_dataset(client: Client, tmp_path: Path) -> None:
    client.hub.publish("me/mine", {"OKVQA/val2014.zip": stored_zip({WANTED[0]: b"mine"})})
    roots = parse_roots([str(tmp_path), "okvqa=me/mine"]).for_task(TASKS["OKVQA"])
    roots.fetch(WANTED[:1])
    assert found(roots, WANTED[:1]) == {WANTED[0]: b"mine"}
    assert roots.source is not None
    assert roots.source.startswith("me/mine@")
    assert not parse_roots([str(tmp_path), "okvqa=me/mine"]).for_task(TASKS["LLaVA"]).on_hub


def test_a_folder_called_hub_is_a_folder(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(client.tmp_path)
    (client.tmp_path / "hub").mkdir()
    assert not client.roots("hub").on_hub
    with pytest.raises(M2KRError, match="Write hub for the pictures on the hub"):
        parse_roots(["nowhere"])


def test_another_process_finds_what_was_fetched(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    roots = client.roots()
    roots.fetch(WANTED)
    client.hub.forget()
    sent = pickle.loads(pickle.dumps(roots))
    assert found(sent, WANTED) == wanted(WANTED)
    assert not client.hub.asked


def test_pictures_that_are_nowhere_are_named_with_the_place_where_they_should_be(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    roots = client.roots()
    roots.fetch(["val2014/none.jpg"])
    with pytest.raises(M2KRError, match=rf"val2014/none\.jpg is not in {HUB_IMAGES}@\w+ \(OKVQA\)"):
        roots.open("val2014/none.jpg")


def test_a_dataset_without_the_folder_or_without_archives_is_said(client: Client) -> None:
    client.publish("KVQA/KVQAimgs.zip", stored_zip(PICTURES))
    with pytest.raises(HubError, match=rf"{HUB_IMAGES} has no folder 'OKVQA'"):
        client.fetched(WANTED)
    client.publish("OKVQA/README.md", b"")
    with pytest.raises(HubError, match=r"no \.zip, \.tar or \.tar\.gz archive in its folder OKVQA"):
        client.fetched(WANTED)


def test_what_nobody_asked_for_is_refused_where_it_is_much(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_images, "UNASKED_BYTES", 10_000)
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    unasked = parse_roots(["hub"], asked=False).for_task(TASKS["OKVQA"])
    with pytest.raises(HubError, match=r"OKVQA: \S+ kB of OKVQA/val2014\.zip\)\. Pass --images hub"):
        unasked.fetch(WANTED)
    unasked.fetch(WANTED[:1])
    client.roots().fetch(WANTED)
    unasked.fetch(WANTED)


def test_without_a_network_what_is_kept_is_enough_or_one_line_says_what_lacks(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    client.fetched(WANTED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert client.fetched(WANTED) == wanted(WANTED)
    with pytest.raises(HubError, match=r"1 pictures of OKVQA are not in the cache.*HF_HUB_OFFLINE is set"):
        client.fetched([*WANTED, list(PICTURES)[-1]])


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip(PICTURES))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(HubError, match=r"100 bytes free.*M2KR_CACHE"):
        client.fetched(WANTED)


def test_paths_that_leave_their_root_are_refused_as_elsewhere(client: Client) -> None:
    client.publish("OKVQA/val2014.zip", stored_zip({"../secret.jpg": b"x"}))
    with pytest.raises(M2KRError, match="leaves its root"):
        client.roots().fetch(["../secret.jpg"])


# --- several processes, and commands ----------------------------------------------------------------------------------


def test_two_processes_fetch_the_same_pictures_once_each(client: Client) -> None:
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(client.fetched, [WANTED, WANTED])
    assert first == second == wanted(WANTED)
    assert client.hub.sent[client.archive] <= len(content)


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(client: Client, tmp_path: Path) -> None:
    content = tarred(PICTURES, client.tmp_path)
    client.publish("OKVQA/val2014.tar", content)
    program = f"""
import os, signal
from m2kr.images import hub_archives, hub_store
from m2kr.images.roots import parse_roots
from m2kr.tasks import TASKS
hub_archives._KEPT_AT_ONCE = 10_000
keep, kept = hub_store.HubStore.keep, []
def keep_some(*given):
    keep(*given)
    kept.append(given)
    if len(kept) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
hub_store.HubStore.keep = keep_some
parse_roots(["hub"]).for_task(TASKS["OKVQA"]).fetch({WANTED!r})
"""
    environment = {**os.environ, **client.hub.environment(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    client.hub.forget()
    assert client.fetched(WANTED) == wanted(WANTED)
    assert client.hub.sent[client.archive] < 0.7 * len(content)


def test_packing_and_checking_fetch_what_they_need(client: Client, built: Path, world: Path, tmp_path: Path) -> None:
    files = pictures(world, "coco")
    client.publish("OKVQA/coco.zip", stored_zip(files))
    data = tmp_path / "data"
    for config in ("OKVQA_data", "OKVQA_passages"):
        shutil.copytree(built / config, data / config)
    assert check([str(data), "--images", "hub", "--quiet"]) == 0
    client.hub.forget()
    assert pack(["pack", "--data", str(data), "--images", "hub", "--quiet"]) == 0
    assert not client.hub.sent
    del files[next(image_paths(data, TASKS["OKVQA"]))[2]]
    client.publish("OKVQA/coco.zip", stored_zip(files))
    assert check([str(data), "--images", "hub", "--quiet"]) == 1
    assert "1 missing image" in client.said.readouterr().out
