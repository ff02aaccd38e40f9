"""`m2kr.reader`: how a reader is found by name, which passages it gets, and how it is asked."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.bm25 import BM25
from m2kr import reader
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate.task import evaluate_task
from m2kr.images.roots import ImageError
from m2kr.reader import (
    Answer,
    Asked,
    Asking,
    Evidence,
    Reader,
    get_reader,
    log_softmax,
    no_passages,
    oracle_passages,
    registered,
    run_passages,
)
from m2kr.results.record import Run


class Point:
    """An entry point that loads what it is given; an exception is raised."""

    def __init__(self, name: str, made: Any, value: str = "package:thing") -> None:
        self.name, self.value, self.made = name, value, made

    def load(self) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class Parrot:
    """Says the first word of the first passage, with the log-probability of minus the passage's length."""

    reads = frozenset({"text"})

    def __init__(self, **given: Any) -> None:
        self.name, self.settings, self.given = "parrot", {"words": 1}, given
        self.asked: list[Asked] = []

    def answer(self, asked: Sequence[Asked], batch_size: int = 8) -> list[Answer]:
        self.asked += asked
        return [self.say(item) for item in asked]

    def say(self, asked: Asked) -> Answer:
        text = asked.passages[0] if asked.passages else "nothing"
        return Answer(text.split()[0], -float(len(text)))


def register(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    monkeypatch.setattr(reader, "entry_points", lambda group: list(points) if group == "m2kr.readers" else [])


# --- the registry ---------------------------------------------------------------------------------------------------


def test_a_reader_is_made_with_checkpoint_device_dtype_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("parrot", Parrot))
    made = get_reader("parrot", checkpoint="here", device="cuda:1", dtype="bfloat16", options={"words": "2"})
    assert isinstance(made, Parrot)
    assert isinstance(made, Reader)
    assert made.given == {"checkpoint": "here", "device": "cuda:1", "dtype": "bfloat16", "words": "2"}


@pytest.mark.parametrize("name", ["folder", "org/model"])
def test_a_folder_or_hub_id_is_an_image_text_to_text_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    register(monkeypatch, Point("image-text-to-text", Parrot))
    made = get_reader(name)
    assert isinstance(made, Parrot)
    assert made.given["checkpoint"] == name


def one_option(*, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", length: str = "1") -> Any:
    return Parrot()


@pytest.mark.parametrize(
    ("points", "name", "options", "message"),
    [
        (
            [Point("parrot", Parrot)],
            "parot",
            {},
            r"there is no reader 'parot'. Did you mean parrot\? Registered: parrot",
        ),
        ([], "parrot", {}, "Registered: none; install the package"),
        ([Point("parrot", Parrot)], "missing/deep/folder", {}, "named by its folder or hub id"),
        (
            [Point("far", ModuleNotFoundError("No module named 'x'"))],
            "far",
            {},
            "needs a package that is not installed",
        ),
        (
            [Point("far", AttributeError("no Y"), "x:Y")],
            "far",
            {},
            "'far' is registered as x:Y, which cannot be loaded",
        ),
        ([Point("dict", dict, "package:Dict")], "dict", {}, "package:Dict does not speak the protocol"),
        (
            [Point("p", Parrot, "one:P"), Point("p", Parrot, "two:P")],
            "p",
            {},
            "registered twice, as one:P and as two:P",
        ),
        ([Point("one", one_option)], "one", {"lenght": "2"}, r"no option 'lenght'. Did you mean length\?"),
        ([Point("one", one_option)], "one", {"device": "2"}, "there is an argument for that, --device"),
    ],
)
def test_what_is_no_reader_is_said(
    monkeypatch: pytest.MonkeyPatch, points: list[Point], name: str, options: dict[str, str], message: str
) -> None:
    register(monkeypatch, *points)
    with pytest.raises(M2KRError, match=message):
        get_reader(name, options=options)


def test_one_reader_that_is_found_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("parrot", Parrot), Point("parrot", Parrot))
    assert list(registered()) == ["parrot"]


# --- passages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BM25 with its result. Not to be changed."""
    out = tmp_path_factory.mktemp("results") / "bm25"
    evaluate_task(BM25(), load_task("OKVQA", built), out, top_k=20, ignore_images=True, quiet=True)
    return out


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """The same, for a test to change."""
    shutil.copytree(evaluated, tmp_path / "bm25")
    return tmp_path / "bm25" / "OKVQA.run.trec.gz"


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_the_softmax_of_scores_sums_to_one(scores: list[float]) -> None:
    found = log_softmax(scores)
    assert sum(math.exp(value) for value in found) == pytest.approx(1.0)
    assert [a - found[0] for a in found] == pytest.approx([score - scores[0] for score in scores], abs=1e-6)


def test_a_run_gives_its_first_passages_and_their_probabilities(okvqa: TaskData, run: Path) -> None:
    evidence = run_passages(okvqa, run, 3)
    trec = Run.read_trec(run)
    assert (evidence.source, evidence.retriever) == ("run", "bm25")
    assert evidence.ids == [found[:3] for found in trec.passage_ids]
    for weights, scores in zip(evidence.log_probabilities, trec.scores, strict=True):
        powers = [math.exp(value) for value in scores[:3].tolist()]
        assert [math.exp(weight) for weight in weights] == pytest.approx([power / sum(powers) for power in powers])


def test_oracle_passages_are_positive_and_equally_probable(okvqa: TaskData) -> None:
    evidence = oracle_passages(okvqa, 2)
    assert evidence.ids == [positives[:2] for positives in okvqa.qrels.values()]
    assert all(weights == pytest.approx([-math.log(len(ids))] * len(ids)) for ids, weights in both(evidence))
    assert evidence.retriever is None


def both(evidence: Evidence) -> Any:
    return zip(evidence.ids, evidence.log_probabilities, strict=True)


def test_a_question_without_positives_is_an_error_or_asked_without_passages(okvqa: TaskData) -> None:
    first = next(iter(okvqa.qrels))
    data = replace(okvqa, qrels={**okvqa.qrels, first: ["no such passage"]})
    with pytest.raises(M2KRError, match=rf"OKVQA has no positive passage for 1 of 30 questions, the first is {first}"):
        oracle_passages(data, 5)
    evidence = oracle_passages(data, 5, allow_missing=True)
    assert (evidence.ids[0], evidence.log_probabilities[0]) == ([], [])
    assert all(evidence.ids[1:])


def test_a_run_that_is_not_there_is_said(okvqa: TaskData, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"the run .*OKVQA.run.trec.gz is not there. Make it with python -m m2kr.eval"):
        run_passages(okvqa, tmp_path / "OKVQA.run.trec.gz", 5)


def test_a_run_without_its_result_is_said(okvqa: TaskData, run: Path) -> None:
    run.with_name("OKVQA.json").unlink()
    with pytest.raises(M2KRError, match=r"has no result file beside it \(OKVQA.json\)"):
        run_passages(okvqa, run, 5)


def test_a_run_of_other_data_is_said(okvqa: TaskData, run: Path) -> None:
    with pytest.raises(M2KRError, match=rf"is of the data {okvqa.fingerprint}, and --data has 0123 of OKVQA"):
        run_passages(replace(okvqa, fingerprint="0123"), run, 5)


def test_a_run_of_another_split_or_task_is_said(built: Path, run: Path) -> None:
    with pytest.raises(M2KRError, match="is of OKVQA/test, and the questions are of OKVQA/valid"):
        run_passages(load_task("OKVQA", built, "valid"), run, 5)
    with pytest.raises(M2KRError, match="is of OKVQA/test, and the questions are of EVQA/test"):
        run_passages(load_task("EVQA", built), run, 5)


def test_a_run_that_was_changed_is_said(okvqa: TaskData, run: Path) -> None:
    trec = Run.read_trec(run)
    trec.write_trec(run, "other")
    with pytest.raises(M2KRError, match="is not the run that its result file was computed from"):
        run_passages(okvqa, run, 5)


def test_a_run_that_keeps_too_few_passages_is_said(okvqa: TaskData, run: Path) -> None:
    assert len(run_passages(okvqa, run, 20).ids[0]) == 20
    with pytest.raises(M2KRError, match=r"--k is 21, and .* keeps 20 passages"):
        run_passages(okvqa, run, 21)


def without_a_query(run: Path) -> str:
    """Take a query out of a run; return its id."""
    from m2kr.common.files import sha256_of

    trec = Run.read_trec(run)
    Run(trec.query_ids[1:], trec.passage_ids[1:], trec.scores[1:]).write_trec(run, "bm25")
    beside = run.with_name("OKVQA.json")
    result = json.loads(beside.read_text(encoding="utf-8"))
    beside.write_text(json.dumps({**result, "run_sha256": sha256_of(run)}), encoding="utf-8")
    return trec.query_ids[0]


def test_a_question_that_the_run_lacks_is_said(okvqa: TaskData, run: Path) -> None:
    name = without_a_query(run)
    with pytest.raises(M2KRError, match=rf"has no passage for 1 of 30 questions, the first is {name}\. Pass --allow-m"):
        run_passages(okvqa, run, 5)
    evidence = run_passages(okvqa, run, 5, allow_missing=True)
    assert [len(ids) for ids in evidence.ids] == [0] + [5] * 29


# --- asking ---------------------------------------------------------------------------------------------------------


def asking(made: Any, data: TaskData, evidence: Evidence, combine: Any = "joint") -> Asking:
    return Asking(made, data, evidence, combine, 4, 0, True, True)


def test_joint_asks_once_for_each_passage_and_takes_the_most_probable(
    okvqa: TaskData, run: Path, tmp_path: Path
) -> None:
    made, evidence = Parrot(), run_passages(okvqa, run, 3)
    lines, _, _ = asking(made, okvqa, evidence).all(tmp_path / "work", "key")
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
    lines, _, _ = asking(made, okvqa, evidence, "concat").all(tmp_path / "work", "key")
    assert [len(item.passages) for item in made.asked] == [3] * 30
    assert "candidates" not in lines[0]
    assert lines[0]["passages"] == evidence.ids[0]


def test_without_passages_every_question_is_asked_once(okvqa: TaskData, tmp_path: Path) -> None:
    made = Parrot()
    lines, _, _ = asking(made, okvqa, no_passages(okvqa)).all(tmp_path / "work", "key")
    assert {item.passages for item in made.asked} == {()}
    assert {line["answer"] for line in lines} == {"nothing"}
    assert [line["question_id"] for line in lines] == okvqa.queries["question_id"].to_list()


def test_of_equally_probable_answers_that_of_the_best_retrieved_passage_is_taken(
    okvqa: TaskData, tmp_path: Path
) -> None:
    class Sure(Parrot):
        def say(self, asked: Asked) -> Answer:
            return Answer(asked.passages[0], 0.0)

    ids = okvqa.passages["passage_id"][:3].to_list()
    evidence = Evidence("oracle", [ids] * 30, [log_softmax([0.0] * 3)] * 30)
    lines, _, _ = asking(Sure(), okvqa, evidence).all(tmp_path / "work", "key")
    assert {line["answer"] for line in lines} == {okvqa.passages["passage_content"][0]}


@pytest.mark.parametrize("value", [0.1, math.nan, -math.inf])
def test_what_is_no_log_probability_is_refused(okvqa: TaskData, tmp_path: Path, value: float) -> None:
    class Odd(Parrot):
        def say(self, asked: Asked) -> Answer:
            return Answer("x", value)

    with pytest.raises(M2KRError, match="which is no logarithm of a probability"):
        asking(Odd(), okvqa, no_passages(okvqa)).all(tmp_path / "work", "key")


def test_a_wrong_number_of_answers_is_refused(okvqa: TaskData, tmp_path: Path) -> None:
    class Short(Parrot):
        def answer(self, asked: Sequence[Asked], batch_size: int = 8) -> list[Answer]:
            return super().answer(asked)[1:]

    with pytest.raises(M2KRError, match="parrot gave 29 answers to 30 prompts"):
        asking(Short(), okvqa, no_passages(okvqa)).all(tmp_path / "work", "key")


def test_after_a_kill_finished_chunks_are_not_asked_again(
    okvqa: TaskData, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK", 8)
    evidence = run_passages(okvqa, run, 2)
    whole = asking(Parrot(), okvqa, evidence).all(tmp_path / "whole", "key")[0]

    class Mortal(Parrot):
        def answer(self, asked: Sequence[Asked], batch_size: int = 8) -> list[Answer]:
            if len(self.asked) == 32:
                raise ZeroDivisionError("killed")
            return super().answer(asked)

    killed = Mortal()
    with pytest.raises(ZeroDivisionError):
        asking(killed, okvqa, evidence).all(tmp_path / "work", "key")
    again = Parrot()
    assert asking(again, okvqa, evidence).all(tmp_path / "work", "key")[0] == whole
    assert len(killed.asked) == 32
    assert len(again.asked) == 60 - 32
    other = Parrot()  # what is there was answered with other settings
    asking(other, okvqa, evidence).all(tmp_path / "work", "another key")
    assert len(other.asked) == 60


def test_pictures_are_given_with_their_questions(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("OKVQA", built, images=world)
    made = Parrot()
    evidence = no_passages(data)
    Asking(made, data, evidence, "joint", 4, 0, False, True).all(tmp_path / "work", "key")
    assert [item.image.tobytes() for item in made.asked if item.image] == [
        data.query_image(row).tobytes() for row in range(30)
    ]


def test_a_picture_that_cannot_be_decoded_ends_the_work_and_keeps_what_was_answered(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHUNK", 2)
    root = tmp_path / "images"
    shutil.copytree(world / "coco", root / "coco")
    data = load_task("OKVQA", built, images=root, limit=4)
    broken = root / "coco" / data.queries["img_path"][3]
    content = broken.read_bytes()
    broken.write_bytes(b"no picture")

    def ask(made: Parrot) -> Any:
        return Asking(made, data, no_passages(data), "joint", 4, 0, False, True).all(tmp_path / "work", "key")

    name = data.queries["question_id"][3]
    with pytest.raises(ImageError, match=rf"of question {name} of OKVQA cannot be used: .*answers before it are kept"):
        ask(Parrot())
    broken.write_bytes(content)
    made = Parrot()
    lines, _, _ = ask(made)
    assert (len(made.asked), len(lines)) == (2, 4)
