"""Answering without Ray as processes elsewhere do it: in another order, and with interruptions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2kr.answer import generate
from m2kr.answer.evidence import no_passages, run_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.remote import RemoteReader
from m2kr.answer.task import answer_task
from m2kr.common import registry
from m2kr.dataset import TaskData, load_task
from m2kr.reader import Answer, Reader, ReaderInput
from tests.m2kr.clusters import Here
from tests.m2kr.evaluating import comparable, entry_points_of

CHUNK = 8


class Looking:
    """Tells the brightness of the picture, and how long the passages are."""

    reads = frozenset({"text", "image"})

    def __init__(self, **given: Any) -> None:
        self.name, self.settings = "looking", {"eyes": 2}
        self.asked: list[ReaderInput] = []

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        self.asked += asked
        return [self.say(item) for item in asked]

    def say(self, asked: ReaderInput) -> Answer:
        light = 0.0 if asked.image is None else float(np.asarray(asked.image).mean())
        return Answer(f"{asked.question[:5]} {light:.3f}", -float(sum(map(len, asked.passages))) / 1000)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    readers: list[Any] = []
    points = entry_points_of({"looking": Looking}, readers)
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(generate, "CHUNK", CHUNK)
    return readers


def remotely(data: TaskData, passages: Any, out: Path, options: AnswerTaskOptions, cluster: Here) -> None:
    answer_task(RemoteReader(cluster, "looking", {}, "cpu"), data, passages, out, options)


def files(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (out / "answers" / "looking").iterdir():
        found[path.name] = comparable(path) if path.suffix == ".json" else path.read_bytes()
    return found


@pytest.mark.parametrize("combine", ["joint", "concat"])
def test_answers_are_those_of_one_process(
    built: Path, world: Path, run: Path, made: list[Any], tmp_path: Path, combine: Any
) -> None:
    data = load_task("OKVQA", built, images=world)
    passages, options = run_passages(data, run, 3), AnswerTaskOptions(combine=combine, k=3, quiet=True)
    remotely(data, passages, tmp_path / "more", options, Here())
    answer_task(Looking(), data, passages, tmp_path / "one", options)
    name = f"OKVQA.{combine}-3"
    found, expected = files(tmp_path / "more"), files(tmp_path / "one")
    assert found[f"{name}.json"].pop("ray") == {"nodes": 1}
    assert found == expected
    assert len(made) == 1
    assert len(made[0].asked) == 30 * (3 if combine == "joint" else 1)
    peak = json.loads((tmp_path / "more" / "answers" / "looking" / f"{name}.json").read_text())["peak_memory"]
    assert peak > 0


def test_it_is_a_reader_itself(made: list[Any]) -> None:
    reader = RemoteReader(Here(), "looking", {}, "cpu")
    assert isinstance(reader, Reader)
    asked = [ReaderInput("what is it?", ("a tower",))]
    assert reader.answer(asked) == Looking().answer(asked)
    assert made[0].asked == asked


def test_what_is_answered_before_a_kill_is_not_answered_again(okvqa: TaskData, made: list[Any], tmp_path: Path) -> None:
    class InOrder(Here):
        backwards = False

    options = AnswerTaskOptions(ignore_images=True, quiet=True)
    with pytest.raises(ZeroDivisionError):
        remotely(okvqa, no_passages(okvqa), tmp_path / "more", options, InOrder(dies_after=2))
    assert len(made[0].asked) == 2 * CHUNK
    remotely(okvqa, no_passages(okvqa), tmp_path / "more", options, InOrder())
    assert len(made[1].asked) == 30 - 2 * CHUNK
    answer_task(Looking(), okvqa, no_passages(okvqa), tmp_path / "one", options)
    found = files(tmp_path / "more")
    found["OKVQA.json"].pop("ray")
    assert found == files(tmp_path / "one")
