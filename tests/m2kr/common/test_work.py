"""Interrupted work goes on where it was, and only where it is the same work."""

import os
import signal
import subprocess
import sys
import time

import pytest

from m2kr.common.locks import one_writer
from m2kr.common.work import Note, Workplace, claim, discard, move_into_place
from m2kr.errors import M2KRError
from tests.kills import killed_everywhere


def test_facts_are_found_again_under_their_key_alone(tmp_path):
    path = tmp_path / "work" / "note.json"
    note = Note(path, "a")
    assert note.facts == {}
    note.save(shards=[1])
    note.save(rows=2)
    assert Note(path, "a").facts == Note(path).facts == {"shards": [1], "rows": 2}
    assert Note(path).key == "a"
    assert Note(path, "b").facts == {}
    assert Note(path, "a", whole=lambda facts: facts["rows"] > 2).facts == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": "a", "ro', "null"])
def test_a_damaged_note_counts_as_none(tmp_path, content):
    (tmp_path / "note.json").write_text(content, encoding="utf-8")
    assert Note(tmp_path / "note.json", "a").facts == {}


def test_chunks_go_on_after_an_interruption_and_their_time_adds_up(tmp_path):
    path, done = tmp_path / "note.json", []

    def make(rows):
        if rows.start == 8 and path.exists() and len(done) == 2:
            raise KeyboardInterrupt
        time.sleep(0.01)
        done.append(rows)

    note = Note(path, "a")
    with pytest.raises(KeyboardInterrupt):
        note.in_chunks(make, 10, 4, "make")
    assert note.rows == 8
    before = note.seconds
    assert before >= 0.02
    done.append("again")
    note = Note(path, "a")
    note.in_chunks(make, 10, 4, "make")
    assert done == [range(4), range(4, 8), "again", range(8, 10)]
    assert (note.rows, note.facts["of"]) == (10, 10)
    assert note.seconds >= before + 0.01
    assert note.memory > 1 << 20
    note.in_chunks(make, 10, 4, "make")
    assert done[-1] == range(8, 10)


def test_chunks_begin_at_multiples_of_their_size(tmp_path):
    done = []
    Note(tmp_path / "note.json", "a").in_chunks(done.append, 11, 4, "make", first=6)
    assert done == [range(6, 8), range(8, 11)]


def test_rows_that_were_made_and_not_noted_are_noted(tmp_path):
    done = []
    path = tmp_path / "note.json"
    Note(path, "a").in_chunks(done.append, 11, 4, "make", first=11)  # a kill came between the last rows and their note
    note = Note(path, "a")
    assert (done, note.rows, note.facts["of"]) == ([], 11, 11)


def test_a_folder_is_claimed_for_settings(tmp_path):
    note = tmp_path / "run" / "run.json"
    claim(note, {"seed": 1, "data": "x"}, "run")
    claim(note, {"data": "x", "seed": 1}, "run")
    with pytest.raises(M2KRError, match=r"run with other settings \(seed, more\)"):
        claim(note, {"seed": 2, "data": "x", "more": 0}, "run")
    note.write_text("[", encoding="utf-8")
    with pytest.raises(M2KRError, match=r"run\.json is no note of a run"):
        claim(note, {}, "run")
    note.rename(note.with_name("other.json"))
    with pytest.raises(M2KRError, match=r"holds no run\.json"):
        claim(note, {}, "run")


def test_a_kill_at_any_point_of_claiming_does_not_make_the_folder_another_s(tmp_path):
    note = tmp_path / "run" / "run.json"

    def claimed(_=None):
        with one_writer(note.parent, wait=False):
            claim(note, {"seed": 1}, "run")

    kills = []
    for number in killed_everywhere(claimed):
        kills.append(number)
        claimed()
        assert [path.name for path in note.parent.iterdir()] == ["run.json"]
        discard(note.parent)
    assert len(kills) > 5


def test_one_process_at_a_time_works_on_a_result_and_the_next_is_told_which(tmp_path):
    first, second = (Workplace(tmp_path / "out", "TASK", key) for key in "ab")
    assert first.folder != second.folder
    with first.locked():
        first.folder.mkdir()
        second.tidy()  # nothing, as the first is at work
        assert first.folder.is_dir()
        assert not list((tmp_path / "out").glob("*.json"))  # which readers take for results
        with (
            pytest.raises(M2KRError, match=rf"out/TASK is being made by process {os.getpid()}, since 2.*another --out"),
            second.locked(),
        ):
            pass
        with Workplace(tmp_path / "out", "TASK.valid", "a").locked():
            pass
    second.tidy()
    assert not list((tmp_path / "out").iterdir())


def test_after_a_kill_the_lock_is_free_and_what_is_left_is_cleared(tmp_path):
    program = """
import sys
from pathlib import Path
from m2kr.common.work import Workplace
work = Workplace(Path(sys.argv[1]), "TASK", "a")
with work.locked():
    work.folder.mkdir()
    print("here", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "here\n"
        other = Workplace(tmp_path, "TASK", "b")
        with pytest.raises(M2KRError, match=f"process {child.pid}, since"), other.locked():
            pass
        child.send_signal(signal.SIGKILL)
    (tmp_path / ".TASK.work").mkdir()  # of a version without keys
    (tmp_path / ".TASK.valid.work-a").mkdir()
    other.tidy()
    assert [path.name for path in tmp_path.iterdir()] == [".TASK.valid.work-a"]


def test_a_link_under_the_name_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".TASK.lock").symlink_to(tmp_path / "outside")
    with Workplace(tmp_path / "out", "TASK", "a").locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "out").touch()
    with (
        pytest.raises(M2KRError, match=r"out could not be written: File exists\. Choose another folder"),
        Workplace(tmp_path / "out", "TASK", "a").locked(),
    ):
        pass


def test_a_link_in_the_place_of_a_finished_folder_is_replaced_and_not_followed(tmp_path):
    for name in ("work", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    (tmp_path / "target").symlink_to(tmp_path / "outside")
    move_into_place(tmp_path / "work", tmp_path / "target")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["outside", "outside/outside", "target", "target/work"]


def test_a_kill_at_any_point_of_replacing_leaves_the_old_folder_none_or_the_new_one(tmp_path):
    work, target = tmp_path / "work", tmp_path / "target"

    def prepare(folder, name):
        discard(folder)
        (folder / "sub").mkdir(parents=True)
        for number in range(3):
            (folder / f"{name}{number}").touch()
            (folder / "sub" / f"{name}{number}").touch()

    def files(folder):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

    prepare(work, "new")
    prepare(target, "old")
    old, new, seen = files(target), files(work), []
    for _ in killed_everywhere(lambda _: move_into_place(work, target)):
        seen.append(files(target) if target.exists() else [])
        assert seen[-1] in (old, [], new)
        prepare(work, "new")
        move_into_place(work, target)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]
        assert files(target) == new
        prepare(work, "new")
        prepare(target, "old")
    assert [old in seen, [] in seen, new in seen] == [True] * 3
    assert len(seen) > 10


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path):
    for name in ("work", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    move_into_place(tmp_path / "work", tmp_path / "target")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "work"]
    (tmp_path / "target").rename(tmp_path / "work")
    move_into_place(tmp_path / "work", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target" / "work").is_file()
