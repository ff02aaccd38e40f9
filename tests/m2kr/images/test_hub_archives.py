"""`m2kr.images.hub_archives`: of zips and tars of the hub, no more is read than the pictures need."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from m2kr.common.hub import HubError, HubUnreachableError, hub_cache
from m2kr.images import hub_archives, hub_store
from m2kr.tasks import HUB_IMAGES
from tests.m2kr.evaluating import kill
from tests.m2kr.hub import in_parts, stored_zip, tarred
from tests.m2kr.images.hub_client import PICTURES, WANTED, Client, found, size, wanted

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
