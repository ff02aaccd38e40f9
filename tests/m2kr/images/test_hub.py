"""`m2kr.images.hub`: pictures out of archives of the hub, of which no more is read than they need."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from m2kr.check import main as check
from m2kr.common.hub import HubError
from m2kr.errors import M2KRError
from m2kr.images import hub as hub_images
from m2kr.images.__main__ import main as pack
from m2kr.images.roots import image_paths, parse_roots
from m2kr.tasks import HUB_IMAGES, TASKS
from tests.m2kr.archives import archived
from tests.m2kr.hub import pictures, stored_zip, tarred
from tests.m2kr.images.hub_client import PICTURES, WANTED, Client, found, size, wanted

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
