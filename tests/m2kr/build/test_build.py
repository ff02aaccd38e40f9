"""The build command: what it makes, what it refuses, and that a kill changes nothing."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from m2kr.build.__main__ import main
from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.cards import card
from m2kr.common import partitions
from m2kr.errors import M2KRError
from m2kr.formats.manifest import read_manifest
from m2kr.parsing.rejected import RejectedRows
from m2kr.parsing.releases import RawFiles
from m2kr.sources import sampling
from m2kr.sources.options import make_options, source_of
from m2kr.tasks import RELEASES, TASKS
from tests.m2kr.building import build, contents, entry_of
from tests.m2kr.raw_files import SAMPLES, needs_samples


def test_the_folder_holds_the_benchmark_and_nothing_else(built):
    files = {path.name if path.is_file() else path.name + "/" for path in built.iterdir()}
    assert files == {
        *(f"{task}_{kind}/" for task in TASKS for kind in ("data", "passages")),
        *("README.md", "manifest.json", "croissant.json"),
    }


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(world, built, tmp_path, workers):
    out = tmp_path / "out"
    # Polars fixes its threads at import, so another number needs another process.
    environment = {**os.environ, "POLARS_MAX_THREADS": workers}
    command = [sys.executable, "-m", "m2kr.build", "--raw", str(world), "--out", str(out), "--workers", workers]
    subprocess.run([*command, "--images", str(world), "--quiet"], check=True, env=environment)
    # Images are counted only where they are looked for; nothing else differs.
    assert contents(out) == contents(built)


def test_tasks_built_one_by_one_with_few_rows_in_memory_are_those_built_together(raw, built, tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "PART_ROWS", 200)
    monkeypatch.setattr(sampling, "_BATCH_ROWS", 100)
    for task in reversed(TASKS):
        assert build(raw, tmp_path / "out", "--tasks", task, "--quiet") == 0
    assert contents(tmp_path / "out") == contents(built)


def killed_build(raw, out, task, when):
    """Start a build, kill it as soon as ``when()`` holds, and say whether it was still running."""
    command = [sys.executable, "-m", "m2kr.build", "--raw", str(raw), "--out", str(out), "--tasks", task, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while process.poll() is None and not when() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("task", "seen"),
    [
        ("WIT", ".build/WIT/staged/*"),
        ("KVQA", ".build/KVQA/tables/*/*"),
        ("MSMARCO", "MSMARCO_data"),
        ("OKVQA", "OKVQA_passages/*"),
        ("EVQA", ".build/EVQA/**/*"),
    ],
)
def test_a_kill_changes_nothing(world, built, tmp_path, task, seen):
    out = tmp_path / "out"
    assert killed_build(world, out, task, lambda: any(out.glob(seen))), "the build ended before it could be killed"
    for folder in out.glob("*_data"):
        # What stands under its final name is whole.
        assert pl.read_parquet(folder / "*.parquet").equals(pl.read_parquet(built / folder.name / "*.parquet"))
    assert build(world, out, "--tasks", task, "--quiet") == 0
    for config in (f"{task}_data", f"{task}_passages"):
        assert contents(out / config) == contents(built / config)
    assert read_manifest(out)["tasks"] == {task: read_manifest(built)["tasks"][task]}
    assert not (out / ".build").exists()


def test_what_a_killed_build_wrote_with_other_options_is_not_taken(world, tmp_path):
    out = tmp_path / "out"
    inputs = task_inputs(TASKS["MSMARCO"], world, options={"pool": 70})

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2kr.build.task.publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_task(inputs, out, quiet=True)
    assert (out / ".build/MSMARCO/tables").is_dir()
    build_task(task_inputs(TASKS["MSMARCO"], world, options={"pool": 80}), out, quiet=True)
    assert pl.read_parquet(out / "MSMARCO_passages" / "test_passages-*.parquet").height == 80


def damage(path, edit):
    path.write_bytes(edit(path.read_bytes()))


def cut_gzip(path):
    whole = gzip.compress(path.read_bytes())
    path.with_name(path.name + ".gz").write_bytes(whole[: len(whole) // 2])
    path.unlink()


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


BAD = {
    "truncated gzip": (
        "MSMARCO",
        lambda raw: cut_gzip(raw / "msmarco/collection.tsv"),
        r"collection.tsv.gz, after .* bytes: the gzip file is truncated",
    ),
    "truncated gzip of quoted records": (
        "OKVQA",
        lambda raw: cut_gzip(raw / "wikipedia/psgs_w100.tsv"),
        r"psgs_w100.tsv.gz, after .* bytes: the gzip file is truncated",
    ),
    "too few fields": (
        "MSMARCO",
        lambda raw: damage(raw / "msmarco/collection.tsv", lambda data: data + b"99999\n"),
        r"collection.tsv, line \d+ \(passage_id 99999\): 1 field where 2 are expected",
    ),
    "too few quoted fields": (
        "OKVQA",
        lambda raw: damage(raw / "wikipedia/psgs_w100.tsv", lambda data: data + b"99999\ttext\n"),
        r"psgs_w100.tsv, line \d+: 2 fields where 3 are expected",
    ),
    "invalid JSON": (
        "LLaVA",
        lambda raw: damage(
            raw / "llava_instruct/detail_23k.json", lambda data: data.replace(b'"image":', b'"image"', 1)
        ),
        r"detail_23k.json, record 1 \(line \d+\): invalid JSON",
    ),
    "invalid UTF-8": (
        "MSMARCO",
        lambda raw: damage(raw / "msmarco/queries.train.tsv", lambda data: data + b"99999\tna\xefve\n"),
        r"queries.train.tsv, line \d+: the line is not valid UTF-8",
    ),
    "duplicate ids": (
        "MSMARCO",
        lambda raw: damage(raw / "msmarco/collection.tsv", lambda data: data + b"0\tonce more\n"),
        r"collection.tsv, line \d+ \(passage_id 0\): the id stands already at line 1",
    ),
    "a positive that is no passage": (
        "MSMARCO",
        lambda raw: damage(
            raw / "msmarco/qrels.dev.small.tsv", lambda data: data + data.split(b"\t")[0] + b"\t0\t987654\t1\n"
        ),
        r"qrels.dev.small.tsv, line \d+ \(query \d+, passage 987654\): its passage is not in collection.tsv",
    ),
    "an empty answer list": (
        "OKVQA",
        lambda raw: edit_json(
            raw / "okvqa/mscoco_val2014_annotations.json", lambda content: content["annotations"][2]["answers"].clear()
        ),
        r"mscoco_val2014_annotations.json, record 3 \(question_id \d+\): the list of answers is empty",
    ),
    "an image path that leaves its root": (
        "LLaVA",
        lambda raw: edit_json(
            raw / "llava_instruct/conversation_58k.json", lambda content: content[4].update(image="../000000000001.jpg")
        ),
        r"conversation_58k.json, record 5 \(id \d+\): the image path '../000000000001.jpg' leaves its root",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_with_one_clear_line_or_is_skipped_listed_and_counted(raw, tmp_path, capsys, kind):
    task, spoil, message = BAD[kind]
    spoil(raw)
    out = tmp_path / "out"
    assert build(raw, out, "--tasks", task, "--quiet") == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert re.search(message, printed)
    assert "--on-bad-rows skip" in printed or "--allow-missing" in printed
    assert not out.exists() or [path.name for path in out.iterdir()] == [".build"]
    assert not list(out.rglob("*.tmp")) + list(out.rglob("*.part"))
    assert build(raw, out, "--tasks", task, "--on-bad-rows", "skip") == 0
    lines = [
        json.loads(line) for line in (out / "quarantine" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    counts = entry_of(out, task)["counts"]
    assert len(lines) == counts["rows_left_out"] + counts["rows_without_their_other_half"] > 0
    assert f"{counts['rows_left_out']:,} bad rows" in capsys.readouterr().err
    assert re.search(message.split(": ", 1)[1], "\n".join(line["reason"] for line in lines))


def test_a_missing_file_names_what_to_do_or_is_built_without(raw, tmp_path, capsys):
    (raw / "msmarco" / "qrels.train.tsv").unlink()
    assert build(raw, tmp_path / "out", "--tasks", "MSMARCO", "--quiet") == 2
    assert "qrels.train.tsv is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert build(raw, tmp_path / "out", "--tasks", "MSMARCO", "--allow-missing") == 0
    assert "missing: msmarco/qrels.train.tsv" in capsys.readouterr().err
    assert set(read_manifest(tmp_path / "out")["tasks"]["MSMARCO"]["configs"]["MSMARCO_data"]) == {"valid", "test"}


def test_an_error_leaves_an_earlier_build_as_it_was(raw, built, tmp_path):
    out = Path(shutil.copytree(built, tmp_path / "out"))
    before = contents(out)
    damage(raw / "msmarco/collection.tsv", lambda data: data + b"broken\n")
    assert build(raw, out, "--quiet") == 2
    assert {name: data for name, data in contents(out).items() if not name.startswith(".build")} == before


def test_a_missing_image_is_named(raw, world, tmp_path, capsys):
    shutil.copytree(world / "coco", raw / "coco", dirs_exist_ok=True)
    sorted((raw / "coco" / "val2014").glob("*.jpg"))[0].unlink()
    assert build(raw, tmp_path / "out", "--tasks", "OKVQA", "--images", str(raw), "--quiet") == 2
    assert "the image val2014/COCO_val2014_" in capsys.readouterr().err


def test_no_source_reads_a_file_that_its_release_does_not_list(world, tmp_path, monkeypatch):
    # Whether a finished task is up to date is told by the lists.
    asked = set()
    find = RawFiles.find

    def noted(self, release, name, *, optional=False):
        asked.add((release, name))
        return find(self, release, name, optional=optional)

    monkeypatch.setattr(RawFiles, "find", noted)
    for task in TASKS.values():
        asked.clear()
        folders = {name: world / name for name in task.releases}
        rejected = RejectedRows("skip", allow_missing=True)
        raw = RawFiles(folders, tmp_path / task.key, rejected=rejected, quiet=True)
        source_of(task.key).build(raw, make_options(task.key, {}), 0)
        assert asked
        listed = {(folder, name) for folder in task.releases for name in RELEASES[folder].files}
        listed |= {(folder, name) for folder in task.releases for name in RELEASES[folder].optional}
        assert asked <= listed, task.key


def test_the_card_of_kvqa_says_that_valid_and_test_share_images(built):
    valid, test = (pl.read_parquet(built / "KVQA_data" / f"{split}-*.parquet") for split in ("valid", "test"))
    assert set(valid["img_id"]) & set(test["img_id"])
    assert "Valid and test share images" in card(TASKS["KVQA"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "MSMARC"], "Did you mean MSMARCO?"),
        (["--source", "msmarc=/"], "Did you mean msmarco?"),
        (["--source", "msmarco"], "NAME=PATH"),
        (["--source", "msmarco=nowhere"], "is not a folder"),
        (["--set", "MSMARCO.poll=3"], "Did you mean pool?"),
        (["--set", "pool=3"], "TASK.OPTION=VALUE"),
        (["--images", "nowhere"], "is not a folder"),
    ],
)
def test_a_wrong_argument_is_explained(raw, tmp_path, capsys, arguments, message):
    assert build(raw, tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert message in printed[-1]
    assert printed[-1].startswith("error: ")


def test_the_list_shows_every_task_and_its_files(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for word in ("WIT", "wit_v1.train.all-00009-of-00010.tsv.gz", "psgs_w100.tsv", "CC-BY-4.0"):
        assert word in shown


def test_help_and_import_load_nothing_heavy():
    heavy = ("polars", "torch", "datasets", "pyarrow", "numpy")
    code = (
        "import sys; from m2kr.build.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@needs_samples
def test_400_real_llava_questions_are_built(tmp_path):
    source = f"llava_instruct={SAMPLES}/llava_instruct/reshaped"
    out = tmp_path / "out"
    assert build(SAMPLES, out, "--tasks", "LLaVA", "--source", source, "--allow-missing", "--quiet") == 0
    rows = pl.read_parquet(out / "LLaVA_data" / "test-*.parquet")
    assert rows.height == 400
    assert rows["img_path"].str.contains(r"^train2014/COCO_train2014_\d{12}\.jpg$").all()
    assert not rows["question"].str.contains("<image>").any()


@needs_samples
def test_real_native_llava_records_are_built(tmp_path):
    out = tmp_path / "out"
    assert build(SAMPLES, out, "--tasks", "LLaVA", "--quiet") == 0
    rows = pl.read_parquet(out / "LLaVA_data" / "test-*.parquet")
    assert rows["llava_split"].value_counts().sort("llava_split")["count"].to_list() == [1, 3, 2]


@needs_samples
def test_the_real_msmarco_sample_builds_what_has_both_halves(tmp_path, capsys):
    out = tmp_path / "out"
    assert build(SAMPLES, out, "--tasks", "MSMARCO", "--quiet") == 2
    assert "its passage is not in collection.tsv" in capsys.readouterr().err
    assert build(SAMPLES, out, "--tasks", "MSMARCO", "--allow-missing") == 0
    valid = pl.read_parquet(out / "MSMARCO_data" / "valid-*.parquet")
    assert valid.select("question_id", "pos_item_ids").rows() == [("1048585", ["7187158"])]
    listed = [json.loads(line) for line in (out / "quarantine/MSMARCO.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = [row for row in listed if row["file"] == "msmarco/qrels.dev.small.tsv"]
    assert len(dev) == 7_437 - 1
    assert {row["reason"] for row in dev} == {"its passage is not in collection.tsv"}


@needs_samples
def test_the_real_okvqa_sample_lacks_its_annotations(tmp_path, capsys):
    assert build(SAMPLES, tmp_path / "out", "--tasks", "OKVQA", "--quiet") == 2
    printed = capsys.readouterr().err
    assert "psgs_w100.tsv is missing" in printed or "annotations.json is missing" in printed


def test_without_options_the_tasks_whose_files_are_there_are_built_and_the_others_listed(
    world, built, tmp_path, monkeypatch, capsys
):
    for release in ("msmarco", "kvqa", "iglue_wit"):
        shutil.copytree(world / release, tmp_path / "raw" / release, copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    assert main(["--quiet"]) == 0
    entries = read_manifest(tmp_path / "m2kr-data")["tasks"]
    assert entries == {key: read_manifest(built)["tasks"][key] for key in ("KVQA", "MSMARCO")}
    printed = capsys.readouterr().out
    for task in TASKS.values():
        missing = [line for line in printed.splitlines() if line.startswith(f"{task.key} was not built: ")]
        assert len(missing) == (task.key not in entries)
        assert all(f"raw/{task.releases[-1]}/" in line or f"raw/{task.releases[0]}/" in line for line in missing)
        assert all(RELEASES[line.split("--source ")[1].split("=")[0]].url in line for line in missing)
    assert "2 of 10 tasks" in printed


def test_without_options_and_raw_files_it_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(M2KRError, match=r"raw is not a folder.*--list.*m2kr\.synthetic --out raw"):
        main([])
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_asked_for_is_not_left_out(world, tmp_path, monkeypatch):
    shutil.copytree(world / "kvqa", tmp_path / "raw" / "kvqa", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(M2KRError, match=r"chat\.json is missing"):
        main(["--tasks", "CC,KVQA", "--quiet"])
