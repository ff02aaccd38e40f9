"""Whatever a JSON file of ours holds after damage, its readers take it or refuse it with an M2KRError."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from m2kr.build.inputs import task_inputs
from m2kr.build.up_to_date import check_built_images, is_up_to_date
from m2kr.cards import card
from m2kr.check import check
from m2kr.common.files import write_json
from m2kr.common.work import Note, claim
from m2kr.errors import M2KRError
from m2kr.export.files import open_folder, write_card
from m2kr.export.mteb_results import export_results
from m2kr.formats.croissant import croissant
from m2kr.formats.dataset_card import dataset_card
from m2kr.formats.manifest import read_manifest
from m2kr.formats.report import table
from m2kr.images.roots import ImageRoots
from m2kr.results.answer_record import read_answer_results, read_predictions
from m2kr.results.record import read_results
from m2kr.results.table import answer_table
from m2kr.results.table import table as results_table
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS
from tests.damage import damaged_json
from tests.made_results import a_result, an_answer

DAMAGES = 60


def refused(path: Path, read: Callable[[], Any]) -> int:
    """Damage a file again and again, read it each time, and return how often it was refused in one line."""
    whole = path.read_text(encoding="utf-8")
    read()
    messages, defects = [], []
    for number in range(DAMAGES):
        path.write_bytes(damaged_json(whole, Random(f"{path.name} {number}")))
        try:
            read()
        except M2KRError as error:
            messages.append(str(error))
        except Exception as error:
            defects.append(f"{path.read_bytes()[:300]!r}: {error!r}")
    assert not defects, "\n".join(defects)
    assert not [message for message in messages if "\n" in message]
    return len(messages)


def test_a_manifest(world, data, tmp_path):
    inputs = task_inputs(TASKS["OKVQA"], world)

    def read() -> None:
        manifest = read_manifest(data)
        dataset_card(manifest)
        croissant(manifest)
        for key in manifest["tasks"].keys() & TASKS.keys():
            card(TASKS[key], manifest["tasks"][key])
        table(check(data, [TASKS["OKVQA"], TASKS["MSMARCO"]], quiet=True))
        if is_up_to_date(inputs, data):
            check_built_images(TASKS["OKVQA"], data, ImageRoots([world]).for_task(TASKS["OKVQA"]))

    assert refused(data / "manifest.json", read)


def test_a_result_file(tmp_path):
    write_json(tmp_path / "results" / "m" / "OKVQA.json", a_result())

    def read() -> None:
        results_table(read_results(tmp_path / "results"))
        export_results(tmp_path / "results", tmp_path / "out", quiet=True)

    assert refused(tmp_path / "results" / "m" / "OKVQA.json", read)


def test_a_result_file_of_answering_and_its_predictions(tmp_path):
    path = tmp_path / "results" / "m" / "answers" / "r" / "OKVQA.json"
    write_json(path, an_answer())
    assert refused(path, lambda: answer_table(read_answer_results(tmp_path / "results")))
    write_json(tmp_path / "one.jsonl", {"question_id": "q", "answer": "a", "scores": {"VQA": 0.5}, "passages": ["p"]})
    line = tmp_path / "line.jsonl"
    line.write_text(json.dumps(json.loads((tmp_path / "one.jsonl").read_text())) + "\n")
    assert refused(line, lambda: read_predictions(line))


def test_the_manifest_of_an_export(tmp_path):
    part = {
        "key": "k",
        "task": "OKVQA",
        "split": "test",
        "dataset": "d",
        "synthetic": True,
        "queries": 1,
        "passages": 2,
        "images": False,
        "instructions": True,
    }
    write_json(tmp_path / "export.json", {"format": 1, "m2kr": "0.1.0", "to": "mteb", "parts": {"OKVQA": part}})
    assert refused(tmp_path / "export.json", lambda: write_card(tmp_path, open_folder(tmp_path, "mteb")["parts"]))


def test_the_mark_of_a_made_up_world(tmp_path):
    generate(tmp_path, scale=0.01, releases=["msmarco"], quiet=True)

    def read() -> None:
        task_inputs(TASKS["MSMARCO"], tmp_path).absent()
        generate(tmp_path, scale=0.01, releases=["msmarco"], quiet=True)

    assert refused(tmp_path / "msmarco" / "SYNTHETIC.json", read)


def test_notes_of_unfinished_work(tmp_path):
    note = Note(tmp_path / "note.json", "k")
    note.in_chunks(lambda rows: None, 10, 4, "x", quiet=True)

    def read() -> None:
        Note(tmp_path / "note.json", "k").in_chunks(lambda rows: None, 10, 4, "x", quiet=True)

    assert not refused(tmp_path / "note.json", read)  # the work is done again
    settings = {"a": 1, "b": {"c": [1, 2]}}
    claim(tmp_path / "run" / "run.json", settings, "run")
    assert refused(tmp_path / "run" / "run.json", lambda: claim(tmp_path / "run" / "run.json", settings, "run"))
