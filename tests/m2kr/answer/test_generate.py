"""How a reader is asked: once for each passage or with all, in chunks, with pictures."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from m2kr.answer import generate
from m2kr.answer.evidence import RetrievedPassages, log_softmax, no_passages, run_passages
from m2kr.answer.generate import AnswerGenerator
from m2kr.answer.options import AnswerTaskOptions
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.images.decode import ImageError
from m2kr.reader import Answer, ReaderInput


class Parrot:
    """Says the first word of the first passage, with the log-probability of minus the passage's length."""

    reads = frozenset({"text"})

    def __init__(self, **given: Any) -> None:
        self.name, self.settings, self.given = "parrot", {"words": 1}, given
        self.asked: list[ReaderInput] = []

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        self.asked += asked
        return [self.say(item) for item in asked]

    def say(self, asked: ReaderInput) -> Answer:
        text = asked.passages[0] if asked.passages else "nothing"
        return Answer(text.split()[0], -float(len(text)))


def both(evidence: RetrievedPassages) -> Any:
    return zip(evidence.ids, evidence.log_probabilities, strict=True)


def generator(
    made: Any, data: TaskData, passages: RetrievedPassages, combine: Any = "joint", *, with_images: bool = False
) -> AnswerGenerator:
    options = AnswerTaskOptions(combine=combine, batch_size=4, quiet=True)
    return AnswerGenerator(made, data, passages, options, with_images)


def test_joint_asks_once_for_each_passage_and_takes_the_most_probable(
    okvqa: TaskData, run: Path, tmp_path: Path
) -> None:
    made, evidence = Parrot(), run_passages(okvqa, run, 3)
    lines, _, _ = generator(made, okvqa, evidence).answer_all(tmp_path / "work", "key")
    texts = dict(okvqa.passages.select("passage_id", "passage_content").iter_rows())
    assert [item.passages for item in made.asked] == [(texts[name],) for ids in evidence.ids for name in ids]
    assert [item.question for item in made.asked][::3] == okvqa.queries["question"].to_list()
    for line, (ids, weights) in zip(lines, both(evidence), strict=True):
        totals = {name: weight - len(texts[name]) for name, weight in zip(ids, weights, strict=True)}
        best = max(ids, key=lambda name: totals[name])
        assert line["answer"] == texts[best].split()[0]
        assert line["log_probability"] == totals[best]
        assert [item["passage_id"] for item in line["candidates"]] == ids == line["passages"]
    chosen = [max(range(3), key=lambda place: w[place] - len(texts[i[place]])) for i, w in both(evidence)]
    assert set(chosen) > {0}, "the test needs questions that the first passage does not answer best"


def test_concat_asks_once_with_all_passages(okvqa: TaskData, run: Path, tmp_path: Path) -> None:
    made, evidence = Parrot(), run_passages(okvqa, run, 3)
    lines, _, _ = generator(made, okvqa, evidence, "concat").answer_all(tmp_path / "work", "key")
    assert [len(item.passages) for item in made.asked] == [3] * 30
    assert "candidates" not in lines[0]
    assert lines[0]["passages"] == evidence.ids[0]


def test_without_passages_every_question_is_asked_once(okvqa: TaskData, tmp_path: Path) -> None:
    made = Parrot()
    lines, _, _ = generator(made, okvqa, no_passages(okvqa)).answer_all(tmp_path / "work", "key")
    assert {item.passages for item in made.asked} == {()}
    assert {line["answer"] for line in lines} == {"nothing"}
    assert [line["question_id"] for line in lines] == okvqa.queries["question_id"].to_list()


def test_of_equally_probable_answers_that_of_the_best_retrieved_passage_is_taken(
    okvqa: TaskData, tmp_path: Path
) -> None:
    class Sure(Parrot):
        def say(self, asked: ReaderInput) -> Answer:
            return Answer(asked.passages[0], 0.0)

    ids = okvqa.passages["passage_id"][:3].to_list()
    evidence = RetrievedPassages("oracle", [ids] * 30, [log_softmax([0.0] * 3)] * 30)
    lines, _, _ = generator(Sure(), okvqa, evidence).answer_all(tmp_path / "work", "key")
    assert {line["answer"] for line in lines} == {okvqa.passages["passage_content"][0]}


@pytest.mark.parametrize("value", [0.1, math.nan, -math.inf])
def test_what_is_no_log_probability_is_refused(okvqa: TaskData, tmp_path: Path, value: float) -> None:
    class Odd(Parrot):
        def say(self, asked: ReaderInput) -> Answer:
            return Answer("x", value)

    with pytest.raises(M2KRError, match="which is no logarithm of a probability"):
        generator(Odd(), okvqa, no_passages(okvqa)).answer_all(tmp_path / "work", "key")


def test_a_wrong_number_of_answers_is_refused(okvqa: TaskData, tmp_path: Path) -> None:
    class Short(Parrot):
        def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
            return super().answer(asked)[1:]

    with pytest.raises(M2KRError, match="parrot gave 29 answers to 30 prompts"):
        generator(Short(), okvqa, no_passages(okvqa)).answer_all(tmp_path / "work", "key")


def test_after_a_kill_finished_chunks_are_not_asked_again(
    okvqa: TaskData, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "CHUNK", 8)
    evidence = run_passages(okvqa, run, 2)
    whole = generator(Parrot(), okvqa, evidence).answer_all(tmp_path / "whole", "key")[0]

    class Mortal(Parrot):
        def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
            if len(self.asked) == 32:
                raise ZeroDivisionError("killed")
            return super().answer(asked)

    killed = Mortal()
    with pytest.raises(ZeroDivisionError):
        generator(killed, okvqa, evidence).answer_all(tmp_path / "work", "key")
    again = Parrot()
    assert generator(again, okvqa, evidence).answer_all(tmp_path / "work", "key")[0] == whole
    assert len(killed.asked) == 32
    assert len(again.asked) == 60 - 32
    other = Parrot()  # what is there was answered with other settings
    generator(other, okvqa, evidence).answer_all(tmp_path / "work", "another key")
    assert len(other.asked) == 60


def test_pictures_are_given_with_their_questions(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("OKVQA", built, images=world)
    made = Parrot()
    evidence = no_passages(data)
    generator(made, data, evidence, with_images=True).answer_all(tmp_path / "work", "key")
    assert [item.image.tobytes() for item in made.asked if item.image] == [
        data.query_image(row).tobytes() for row in range(30)
    ]


def test_a_picture_that_cannot_be_decoded_ends_the_work_and_keeps_what_was_answered(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "CHUNK", 2)
    root = tmp_path / "images"
    shutil.copytree(world / "coco", root / "coco")
    data = load_task("OKVQA", built, images=root, limit=4)
    broken = root / "coco" / data.queries["img_path"][3]
    content = broken.read_bytes()
    broken.write_bytes(b"no picture")

    def ask(made: Parrot) -> Any:
        return generator(made, data, no_passages(data), with_images=True).answer_all(tmp_path / "work", "key")

    name = data.queries["question_id"][3]
    with pytest.raises(ImageError, match=rf"of query {name} of OKVQA cannot be used: .*before it is kept"):
        ask(Parrot())
    broken.write_bytes(content)
    made = Parrot()
    lines, _, _ = ask(made)
    assert (len(made.asked), len(lines)) == (2, 4)
