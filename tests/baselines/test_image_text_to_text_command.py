"""The command that answers, with the reader that loads a folder: what it writes, and after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from baselines.image_text_to_text import ImageTextToText
from m2kr.answer import generate
from m2kr.answer.__main__ import main
from m2kr.common import registry
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.reader import ReaderInput
from m2kr.results.answer_record import read_answer_result
from tests.kills import Killed


@pytest.fixture(scope="module")
def results(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BM25. Not to be changed."""
    out = tmp_path_factory.mktemp("results") / "bm25"
    evaluate_task(BM25(), load_task("OKVQA", built), out, TaskOptions(top_k=10, ignore_images=True, quiet=True))
    return out


class Point:
    """The entry point of the reader that loads a folder."""

    name, value = "image-text-to-text", "baselines.image_text_to_text:ImageTextToText"

    def load(self) -> Any:
        return ImageTextToText


def arguments_of(blip2: Path, built: Path, world: Path, results: Path, folder: Path, combine: str) -> list[str]:
    """Return the command's arguments for a copy of the results in ``folder``."""
    shutil.copytree(results, folder / "bm25")
    run = folder / "bm25" / "OKVQA.run.trec.gz"
    given = ["--reader", blip2, "--data", built, "--images", world, "--run", run, "--combine", combine, "--k", 3]
    return [*map(str, given), "--option", "max_new_tokens=4", "--quiet"]


@pytest.mark.parametrize("combine", ["joint", "concat"])
def test_the_command_answers_with_blip2(
    blip2: Path, built: Path, world: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combine: str
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    assert main(arguments_of(blip2, built, world, results, tmp_path, combine)) == 0
    folder = tmp_path / "bm25" / "answers" / "tiny-blip2"
    result = read_answer_result(folder / f"OKVQA.{combine}-3.json")
    assert (result["reader"], result["retriever"], result["ignored_inputs"]) == ("tiny-blip2", "bm25", [])
    lines = [json.loads(line) for line in (folder / f"OKVQA.{combine}-3.predictions.jsonl").open(encoding="utf-8")]
    assert len(lines) == 30
    assert len({line["answer"] for line in lines}) > 1
    data = load_task("OKVQA", built, images=world)
    made = ImageTextToText(checkpoint=str(blip2), max_new_tokens="4")
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    for row in (0, 7, 29):
        given = [texts[name] for name in lines[row]["passages"]]
        groups = [tuple(given)] if combine == "concat" else [(text,) for text in given]
        question, picture = data.queries["question"][row], data.query_image(row)
        answers = made.answer([ReaderInput(question, passages, picture) for passages in groups])
        found = lines[row]["candidates"] if combine == "joint" else [lines[row]]
        assert [item["answer"] for item in found] == [answer.text for answer in answers]
        values = [answer.log_probability for answer in answers]
        assert [item["log_probability"] for item in found] == pytest.approx(values, abs=1e-3)


def test_after_a_kill_the_command_goes_on_and_ends_with_the_same_bytes(
    blip2: Path, built: Path, world: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    monkeypatch.setattr(generate, "CHUNK", 5)
    assert main(arguments_of(blip2, built, world, results, tmp_path / "whole", "joint")) == 0
    whole = tmp_path / "whole" / "bm25" / "answers" / "tiny-blip2"

    given = arguments_of(blip2, built, world, results, tmp_path / "killed", "joint")
    folder = tmp_path / "killed" / "bm25" / "answers" / "tiny-blip2"
    asked: list[int] = []
    answer = ImageTextToText.answer

    def counted(self: ImageTextToText, given: Any, batch_size: int = 8) -> Any:
        if len(asked) == 2:
            raise Killed
        asked.append(len(given))
        return answer(self, given, batch_size)

    monkeypatch.setattr(ImageTextToText, "answer", counted)
    with pytest.raises(Killed):
        main(given)
    assert not (folder / "OKVQA.joint-3.json").exists()
    (work,) = folder.glob(".OKVQA.joint-3.work-*")
    assert len(list(work.glob("*.jsonl"))) == 2
    (folder / ".OKVQA.joint-3.lock").touch()
    asked[:] = [0, 0, 0]
    assert main(given) == 0
    assert sum(asked) == 3 * (30 - 10)  # what was finished is not answered again
    name = "OKVQA.joint-3.predictions.jsonl"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    first, second = (
        json.loads((place / "OKVQA.joint-3.json").read_text(encoding="utf-8")) for place in (whole, folder)
    )
    for changing in ("seconds", "peak_memory"):
        assert first.pop(changing) > 0
        assert second.pop(changing) > 0
    assert first == second
    assert sorted(path.name for path in folder.iterdir()) == ["OKVQA.joint-3.json", name]
