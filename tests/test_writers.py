"""Every command that writes a folder: two at a time lose nothing, and after any kill the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from baselines.preflmr.training.runs import run_training
from leaderboard import site
from leaderboard.__main__ import main as leaderboard
from m2kr.build.__main__ import main as build
from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.common import locks
from m2kr.common.files import write_json
from m2kr.common.work import discard
from m2kr.errors import M2KRError, run_command
from m2kr.export.__main__ import main as export
from m2kr.formats.manifest import publish, read_manifest
from m2kr.images import pack
from m2kr.images.__main__ import main as images
from m2kr.synthetic.__main__ import main as synthetic
from m2kr.tasks import TASKS
from tests.kills import Kill, killed_everywhere
from tests.made_results import a_result, write

Command = tuple[Callable[[Any], int], list[Any]]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, and beside it what bears its name, with its bytes."""
    files = [*folder.rglob("*"), *folder.parent.glob(f".{folder.name}*")]
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path / "results" / "my-model" / "OKVQA.json", a_result(synthetic=True))
    return tmp_path / "results"


@pytest.fixture
def commands(world: Path, built: Path, results: Path) -> dict[str, Command]:
    """Commands by name, without where they write to."""
    return {
        "build": (build, ["--raw", world, "--tasks", "MSMARCO"]),
        "pack": (images, ["pack", "--data", built, "--tasks", "OKVQA", "--images", world]),
        "trec": (export, [built, "--to", "trec", "--tasks", "MSMARCO"]),
        "mteb": (export, [built, "--to", "mteb", "--tasks", "OKVQA", "--images", world]),
        "mteb-results": (export, [results, "--to", "mteb-results"]),
        "synthetic": (synthetic, ["--scale", "0.1", "--releases", "msmarco"]),
        "site": (leaderboard, ["--results", results]),
    }


NAMES = ("build", "pack", "trec", "mteb", "mteb-results", "synthetic", "site")


def run(command: Command, out: Path) -> int:
    main, arguments = command
    return run_command(main, [*map(str, arguments), "--out", str(out)])


# --- two at a time ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", NAMES)
def test_a_command_waits_for_another_that_writes_its_folder(
    commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / "out"
    lock = tmp_path / ".out.lock" if name == "site" else out / ".lock"
    said: list[str] = []
    waiting = threading.Event()
    monkeypatch.setattr(locks, "say", lambda line, quiet: (said.append(line), waiting.set()))
    codes: list[int] = []
    second = threading.Thread(target=lambda: codes.append(run(commands[name], out)))
    with locks.exclusive(lock, out):
        before = sorted(tmp_path.rglob("*"))
        second.start()
        assert waiting.wait(120), "it did not wait"
        assert sorted(tmp_path.rglob("*")) == before
    second.join(120)
    assert codes == [0]
    assert said == [
        f"{out} is being written by process {os.getpid()}, since {said[0].split('since ')[1][:25]}: "
        "waiting until that has ended"
    ]
    assert not [path for path in tmp_path.rglob(".*") if "lock" in path.name]


def test_training_is_refused_where_another_process_trains(tmp_path: Path) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    with (
        locks.one_writer(tmp_path / "run"),
        pytest.raises(M2KRError, match=rf"run is being made by process {os.getpid()}, since"),
    ):
        run_training(tmp_path / "run", {"seed": 1}, never, never, quiet=True)
    assert not (tmp_path / "run").exists()


STOPPED = """
import sys
import m2kr.build.task as task
from m2kr.build.__main__ import main
from m2kr.errors import run_command
publish = task.publish
def stopped(*given):
    print("here", flush=True)
    sys.stdin.readline()
    publish(*given)
task.publish = stopped
sys.exit(run_command(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("tasks", [("MSMARCO", "LLaVA"), ("MSMARCO", "MSMARCO")])
def test_two_builds_into_one_folder_make_what_one_after_the_other_makes(
    world: Path, built: Path, tmp_path: Path, tasks: tuple[str, str]
) -> None:
    out = tmp_path / "out"
    usual: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    start = [sys.executable, "-c", STOPPED, "--raw", str(world), "--out", str(out), "--tasks"]
    with subprocess.Popen([*start, tasks[0]], **usual, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "here\n"
        with subprocess.Popen([*start, tasks[1]], **usual, text=True) as second:
            assert second.stderr
            assert f"{out} is being written by process {first.pid}, since" in second.stderr.readline()
            first.communicate("\n")
            _, errors = second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert ("up to date" in errors) == (tasks[0] == tasks[1])
    for task in tasks:
        build_task(task_inputs(TASKS[task], world), tmp_path / "reference", rerun=False, quiet=True)
    assert set(read_manifest(out)["tasks"]) == set(tasks)
    expected = {name.replace("reference/", "out/"): data for name, data in contents(tmp_path / "reference").items()}
    assert contents(out) == expected


# --- kills ------------------------------------------------------------------------------------------------------------


def after_each_kill(
    command: Command, out: Path, prepare: Callable[[], object], patch: Callable[[Kill], object]
) -> Iterator[int]:
    """Kill a command at every change from where ``patch`` arms the kill, and run it again each time."""
    prepare()
    assert run(command, out) == 0
    reference = contents(out)

    def killed(kill: Kill) -> None:
        patch(kill)
        run(command, out)

    prepare()
    for number in killed_everywhere(killed, armed=False):
        yield number
        assert run(command, out) == 0
        assert contents(out) == reference
        prepare()


def cleared(out: Path) -> None:
    for path in (out, *out.parent.glob(f".{out.name}*")):
        discard(path)


@pytest.mark.parametrize("name", ["trec", "mteb-results", "synthetic"])
def test_a_kill_at_any_point_of_a_command_changes_nothing(
    commands: dict[str, Command], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    kills = list(after_each_kill(commands[name], out, lambda: cleared(out), lambda kill: kill.arm()))
    assert len(kills) > 10


@pytest.mark.parametrize(("name", "module"), [("site", "leaderboard.site"), ("trec", "m2kr.export.task")])
def test_a_kill_at_any_point_of_replacing_an_old_folder_changes_nothing(
    commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    out = tmp_path / "out"

    counts = {"queries": 1, "passages": 1, "synthetic": True, "images": False, "instructions": True}
    part = {"key": "0", "task": "MSMARCO", "split": "test", "dataset": "0", **counts}

    def old() -> None:
        cleared(out)
        folder = out if name == "site" else out / "MSMARCO"
        (folder / "sub").mkdir(parents=True)
        for path in (".m2kr-leaderboard", "a", "sub/b"):
            (folder / path).touch()
        if name == "trec":
            write_json(out / "export.json", {"format": 1, "m2kr": "0", "to": "trec", "parts": {"MSMARCO": part}})

    move = sys.modules[module].move_into_place  # type: ignore[attr-defined]

    def patch(kill: Kill) -> None:
        monkeypatch.setattr(f"{module}.move_into_place", lambda *given: (kill.arm(), move(*given)))

    if name == "site":  # whose pages take seconds
        made = site.Built(1, 1, {})
        monkeypatch.setattr(site, "_made", lambda _, into, **__: ((into / ".m2kr-leaderboard").touch(), made)[1])
    seen = set()
    for _ in after_each_kill(commands[name], out, old, patch):
        seen.add(out.is_dir() if name == "site" else (out / "MSMARCO").is_dir())
        monkeypatch.setattr(f"{module}.move_into_place", move)
    assert seen == {True, False}


def test_a_kill_at_any_point_of_publishing_a_task_changes_nothing(built: Path, tmp_path: Path) -> None:
    task, out = TASKS["MSMARCO"], tmp_path / "out"
    folders = {config: tmp_path / "work" / config for config in (task.data_config, task.passages_config)}

    def published(kill: Kill | None = None) -> None:
        for config, folder in folders.items():
            discard(folder)
            shutil.copytree(built / config, folder)
        if kill:
            kill.arm()
        publish(out, task, read_manifest(built)["tasks"]["MSMARCO"], folders)

    published()
    reference = contents(out)
    kills = []
    for number in killed_everywhere(published, armed=False):
        kills.append(number)
        if "MSMARCO" in read_manifest(out)["tasks"]:  # what it claims is there, whole
            for config in folders:
                assert contents(out / config) == contents(built / config)
        published()
        assert contents(out) == reference
    assert len(kills) > 20


def test_a_pack_killed_while_it_clears_up_leaves_nothing_after_the_same_command(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for config in ("OKVQA_data", "OKVQA_passages"):
        shutil.copytree(built / config, data / config)
    write_json(
        data / "manifest.json", {**read_manifest(built), "tasks": {"OKVQA": read_manifest(built)["tasks"]["OKVQA"]}}
    )
    command: Command = (images, ["pack", "--data", data, "--images", world])
    clear = pack._clear_up

    def patch(kill: Kill) -> None:
        monkeypatch.setattr(pack, "_clear_up", lambda work: (kill.arm(), clear(work)))

    for _ in after_each_kill(command, data, lambda: discard(data / "OKVQA_images"), patch):
        monkeypatch.setattr(pack, "_clear_up", clear)
