"""A benchmark is used under the fingerprint of its manifest only where its files are those that the manifest lists."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from leaderboard.__main__ import main as leaderboard
from m2kr.ask import main as ask
from m2kr.check import main as check
from m2kr.common import files
from m2kr.common.files import cache_folder, sha256_of
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.__main__ import main as evaluate
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export.__main__ import main as export
from m2kr.formats import integrity
from m2kr.formats.integrity import WITHOUT_MANIFEST, KnownHashes, ReadFile, identify
from m2kr.formats.manifest import read_manifest
from m2kr.formats.shards import split_shards
from m2kr.results.run import Run
from m2kr.score import main as score
from m2kr.tasks import TASKS
from tests.m2kr.evaluating import Single

PASSAGES = "MSMARCO_passages/test_passages-00000-of-00001.parquet"
OTHERS = "MSMARCO_passages/train_passages-00000-of-00001.parquet"


def settled(path: Path) -> None:
    """Let a file be of yesterday: what changed just now may change again unseen, and is not remembered."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 86_400 * 10**9))


def shards(data: Path, key: str = "MSMARCO") -> list[Path]:
    task = TASKS[key]
    return split_shards(data, task.data_config, "test") + split_shards(data, task.passages_config, "test_passages")


def identified(data: Path, **options: Any) -> integrity.Identity:
    return identify(data, TASKS["MSMARCO"], shards(data), **options)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# --- the files of the manifest ----------------------------------------------------------------------------------------


def test_the_fingerprint_of_the_manifest_is_that_of_its_files(data: Path) -> None:
    entry = read_manifest(data)["tasks"]["MSMARCO"]
    found = identified(data)
    assert (found.fingerprint, found.synthetic) == (entry["fingerprint"], True)
    assert [file.sha256 for file in found.files] == [sha256_of(path) for path in shards(data)]
    assert identified(data, trust=True).fingerprint == entry["fingerprint"]


@pytest.mark.parametrize("trust", [False, True])
def test_a_shard_overwritten_by_another_s_is_refused_with_both_hashes_and_a_remedy(data: Path, trust: bool) -> None:
    listed = sha256_of(data / PASSAGES)[:12]
    shutil.copyfile(data / OTHERS, data / PASSAGES)
    with pytest.raises(
        M2KRError, match=f"{PASSAGES} is not the file.* {sha256_of(data / OTHERS)[:12]},.* {listed} are.*m2kr.build"
    ):
        identified(data, trust=trust)


def test_a_flipped_bit_is_refused_unless_hashes_are_trusted(data: Path) -> None:
    flip(data / PASSAGES)
    with pytest.raises(M2KRError, match=f"{PASSAGES} is not the file that manifest.json lists"):
        identified(data)
    assert identified(data, trust=True).fingerprint == read_manifest(data)["tasks"]["MSMARCO"]["fingerprint"]


COMMANDS: dict[str, Callable[[Path, Path], tuple[Any, list[Any]]]] = {
    "evaluate": lambda data, out: (evaluate, ["--model", "bm25", "--data", data, "--tasks", "MSMARCO", "--out", out]),
    "ask": lambda data, out: (
        ask,
        ["--model", "bm25", "--data", data, "--task", "MSMARCO", "--question", "what", "--out", out],
    ),
    "score": lambda data, out: (
        score,
        ["--data", data, "--task", "MSMARCO", "--run", data.parent / "run.trec", "--name", "x", "--out", out],
    ),
    "trec": lambda data, out: (export, [data, "--to", "trec", "--tasks", "MSMARCO", "--out", out]),
    "mteb": lambda data, out: (export, [data, "--to", "mteb", "--tasks", "MSMARCO", "--out", out]),
    "leaderboard check": lambda data, out: (
        leaderboard,
        ["check", data.parent / "old" / "MSMARCO.json", "--data", data],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_shard_of_another_split(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    loaded = load_task("MSMARCO", data)
    evaluate_task(BM25(), loaded, tmp_path / "old", TaskOptions(quiet=True))
    Run.from_dict({loaded.queries["question_id"][0]: {}}).write_trec(tmp_path / "run.trec", "x")
    shutil.copyfile(data / OTHERS, data / PASSAGES)
    main, arguments = COMMANDS[name](data, tmp_path / "out")
    capsys.readouterr()
    assert run_command(main, [str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(rf"error: [^\n]*{PASSAGES} is not the file that manifest.json lists[^\n]*\n", printed.err)
    assert not printed.out
    assert not (tmp_path / "out").exists()
    assert run_command(check, [str(data), "--tasks", "MSMARCO", "--quiet"]) == 1
    assert f"hash: {PASSAGES}" in capsys.readouterr().out


def test_shards_that_are_not_listed_or_are_listed_and_lacking_are_refused(data: Path, tmp_path: Path) -> None:
    path = (data / PASSAGES).rename(data / "MSMARCO_passages" / "test_passages-other.parquet")
    with pytest.raises(M2KRError, match=f"{path.name} is not in .*manifest.json"):
        identified(data)
    path.rename(data / PASSAGES)
    manifest = read_manifest(data)
    facts = manifest["tasks"]["MSMARCO"]["configs"]["MSMARCO_passages"]["test_passages"]
    facts["shards"].append({**facts["shards"][0], "path": "MSMARCO_passages/test_passages-more.parquet"})
    hashes = [
        shard["sha256"]
        for splits in manifest["tasks"]["MSMARCO"]["configs"].values()
        for facts in splits.values()
        for shard in facts["shards"]
    ]
    manifest["tasks"]["MSMARCO"]["fingerprint"] = files.digest(hashes)
    (data / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(M2KRError, match=r"test_passages-more.parquet is missing, which manifest.json lists"):
        identified(data)


def test_a_manifest_may_not_name_another_fingerprint_than_its_hashes(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(data)
    manifest["tasks"]["MSMARCO"]["fingerprint"] = "0123456789abcdef"
    (data / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(M2KRError, match="fingerprint of MSMARCO, '0123456789abcdef', is not that of the hashes"):
        identified(data, trust=True)
    assert run_command(check, [str(data), "--quiet"]) == 1
    assert "hash: manifest.json: the fingerprint is not that of the hashes" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["MSMARCO", "IGLUE"])  # all shards of IGLUE are of its one split
def test_without_a_manifest_the_fingerprint_says_so(built: Path, tmp_path: Path, key: str) -> None:
    for suffix in ("data", "passages"):
        shutil.copytree(built / f"{key}_{suffix}", tmp_path / f"{key}_{suffix}")
    published = read_manifest(built)["tasks"][key]["fingerprint"]
    found = load_task(key, tmp_path)
    assert found.fingerprint.startswith(WITHOUT_MANIFEST)
    assert published not in found.fingerprint or key == "IGLUE"
    assert load_task(key, built).fingerprint == published != found.fingerprint
    (tmp_path / "manifest.json").write_text(json.dumps({**read_manifest(built), "tasks": {}}), encoding="utf-8")
    assert load_task(key, tmp_path).fingerprint == found.fingerprint


# --- hashes are found once --------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from here on."""
    found: list[str] = []
    monkeypatch.setattr(integrity, "sha256_of", lambda path: (found.append(path.name), sha256_of(path))[1])
    return found


def test_a_hash_is_found_once_as_long_as_size_and_time_stay_the_same(data: Path, hashed: list[str]) -> None:
    for path in shards(data):
        settled(path)
    first = identified(data)
    assert len(hashed) == 2
    assert identified(data) == first
    assert len(hashed) == 2
    os.utime(data / PASSAGES, ns=(0, 10**18))
    assert identified(data).fingerprint == first.fingerprint
    assert hashed[2:] == [Path(PASSAGES).name]
    flip(data / PASSAGES)
    settled(data / PASSAGES)
    with pytest.raises(M2KRError, match="is not the file"):
        identified(data)


def test_what_changed_just_now_is_not_remembered(data: Path, hashed: list[str]) -> None:
    for path in shards(data):
        os.utime(path)
    for _ in range(2):
        identified(data)
    assert len(hashed) == 4


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_the_hashing_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    for path in shards(data):
        settled(path)
    monkeypatch.setenv("M2KR_CACHE", str(tmp_path / "cache"))
    identified(data)
    (kept,) = (cache_folder() / "hashes").iterdir()
    known = json.loads(kept.read_text(encoding="utf-8"))
    assert set(known) == {path.relative_to(data).as_posix() for path in shards(data)}
    for damage in ("[", "[]", "{}", json.dumps(dict.fromkeys(known, 3)), json.dumps({name: [] for name in known})):
        kept.write_text(damage, encoding="utf-8")
        hashed.clear()
        identified(data)
        assert len(hashed) == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("M2KR_CACHE", str(tmp_path / "file"))
    hashed.clear()
    for _ in range(2):
        identified(data)
    assert len(hashed) == 4
    assert not [path for path in data.rglob("*") if path.is_file() and path.suffix not in (".parquet", ".json")]


def test_an_evaluation_of_a_finished_task_hashes_no_table_again(
    data: Path, tmp_path: Path, hashed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in shards(data):
        settled(path)
    arguments = ["--model", "bm25", "--data", str(data), "--tasks", "MSMARCO", "--out", str(tmp_path / "out")]
    assert run_command(evaluate, arguments) == 0
    hashed.clear()
    assert run_command(evaluate, arguments) == 0
    assert "finished before" in capsys.readouterr().err
    assert not hashed


# --- files that change under a reader ---------------------------------------------------------------------------------


def test_a_result_of_tables_that_changed_meanwhile_is_not_published(data: Path, tmp_path: Path) -> None:
    retriever = Single()
    retriever.fail = lambda: not (data / PASSAGES).write_bytes(b"other")
    with pytest.raises(M2KRError, match=f"{PASSAGES} changed while it was used"):
        evaluate_task(retriever, load_task("MSMARCO", data), tmp_path / "out", TaskOptions(quiet=True))
    assert not (tmp_path / "out" / "MSMARCO.json").exists()


def test_tables_that_are_written_again_with_the_same_bytes_have_not_changed(data: Path, tmp_path: Path) -> None:
    loaded = load_task("MSMARCO", data)
    content = (data / PASSAGES).read_bytes()
    (data / PASSAGES).write_bytes(content)
    os.utime(data / PASSAGES, ns=(0, 10**18))
    loaded.check_unchanged()
    (data / PASSAGES).unlink()
    with pytest.raises(M2KRError, match=f"{PASSAGES} could not be read: No such file"):
        loaded.check_unchanged()


def test_a_table_that_changes_while_it_is_read_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(path: Path) -> str:
        found = sha256_of(path)
        flip(path)
        return found

    monkeypatch.setattr(integrity, "sha256_of", changing)
    with pytest.raises(M2KRError, match="changed while it was"):
        load_task("MSMARCO", data)


def test_an_export_of_tables_that_changed_meanwhile_is_not_published(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from m2kr.export.files import WRITERS

    writer = WRITERS["trec"]
    monkeypatch.setitem(WRITERS, "trec", lambda *given: (writer(*given), flip(data / PASSAGES))[0])
    main, arguments = COMMANDS["trec"](data, tmp_path / "out")
    assert run_command(main, [str(argument) for argument in arguments]) == 2
    assert f"{PASSAGES} changed while it was used" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.json"]


def test_a_file_without_a_hash_that_changes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    file = ReadFile.at(tmp_path / "x")
    file.check_unchanged()
    os.utime(tmp_path / "x", ns=(0, 10**18))
    with pytest.raises(M2KRError, match="x changed while it was used"):
        file.check_unchanged()
    assert KnownHashes(tmp_path).hashed(ReadFile.at(tmp_path / "x")).sha256 == sha256_of(tmp_path / "x")
