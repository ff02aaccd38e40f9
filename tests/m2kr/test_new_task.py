"""One record and one source module add a task: this module is the source of a throw-away one."""

import csv
from dataclasses import dataclass

import polars as pl
import pytest
from PIL import Image

from baselines.bm25 import BM25
from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.cards import card, tasks_table
from m2kr.check import check
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.pack import pack_task
from m2kr.images.roots import ImageRoots
from m2kr.parsing.releases import Tables
from m2kr.sources.options import choice
from m2kr.tasks import RELEASES, TASKS, Release, Task

RIDDLES = {
    "striped": "Which animal is striped and runs across the savanna?",
    "humped": "Which animal is humped and walks through deserts?",
    "spotted": "Which animal is spotted and browses tall trees?",
}


@dataclass(frozen=True)
class Options:
    """Rules of the throw-away task."""

    instruction: str = choice("Solve the riddle:", "The instruction of every query.", "It is ours.")


def build(raw, options, seed):
    """Return the tables of the throw-away task."""
    rows = pl.read_csv(raw.find("riddles", "riddles.csv")).lazy()
    passage = pl.format("The animal is {}.", "id").alias("passage_content")
    queries = rows.select(
        "question",
        question_id="id",
        img_path=pl.format("{}.png", "id"),
        pos_item_ids=pl.concat_list("id"),
        pos_item_contents=pl.concat_list(passage),
        instruction=pl.lit(options.instruction),
    )
    passages = rows.select(passage, passage_id="id")
    return Tables(data={"test": queries.select(*TASKS["Riddles"].query_columns)}, passages={"test": passages.select(
        "passage_id", "passage_content")}, counts={"riddles": len(RIDDLES)})  # fmt: skip


@pytest.fixture
def riddles(monkeypatch):
    task = Task(
        key="Riddles",
        title="Riddles",
        kind="IQ2T",
        description="A picture and a riddle; find the animal.",
        citation="@misc{riddles}",
        published={"test": (3, 3)},
        metrics=("Recall@1",),
        instructions=(),
        source=__name__,
        releases=("riddles",),
        query_columns={
            "question_id": "string",
            "question": "string",
            "img_path": "string",
            "pos_item_ids": "list<string>",
            "pos_item_contents": "list<string>",
            "instruction": "string",
        },
        passage_columns={"passage_id": "string", "passage_content": "string"},
        image_root="riddles/images",
    )
    monkeypatch.setitem(TASKS, "Riddles", task)
    monkeypatch.setitem(
        RELEASES, "riddles", Release("riddles", "Riddles", ("riddles.csv",), "https://x.org", "CC0-1.0")
    )
    return task


def test_one_record_and_one_module_add_a_task(riddles, tmp_path):
    raw, data = tmp_path / "raw", tmp_path / "data"
    (raw / "riddles" / "images").mkdir(parents=True)
    with (raw / "riddles" / "riddles.csv").open("w") as file:
        csv.writer(file).writerows([("id", "question"), *RIDDLES.items()])
    for name in RIDDLES:
        Image.new("RGB", (4, 4)).save(raw / "riddles" / "images" / f"{name}.png")

    entry = build_task(task_inputs(riddles, raw), data, images=ImageRoots([raw]).for_task(riddles), quiet=True)
    assert entry["counts"]["Riddles_data/test"]["images"] == 3
    pack_task(data, riddles, ImageRoots([raw]), out=data, quiet=True)
    report = check(data, list(TASKS.values()), quiet=True)
    assert (report.problems, report.tasks) == (
        [],
        {"Riddles": {"files": 2, "rows": 6, "images": 3, "scaled_images": 0}},
    )

    loaded = load_task("riddles", data)
    assert loaded.query_image(2).size == (4, 4)
    result = evaluate_task(BM25(), loaded, tmp_path / "results", TaskOptions(ignore_images=True, quiet=True))
    assert result["metrics"]["Recall@1"] == 1.0
    assert "Solve the riddle:" in card(riddles, entry)
    assert "[Riddles]" in tasks_table()
