"""``--bad-images``: what becomes of queries whose picture is missing or broken, in retrieval and in answering."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2kr.answer.evidence import no_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.query_pictures import BLACK_SIZE
from m2kr.results.record import read_run
from m2kr.results.table import table
from tests.m2kr.answer.test_answer import Seeker
from tests.m2kr.evaluating import Seeing, kill


@pytest.fixture
def spoiled(built: Path, world: Path, tmp_path: Path) -> TaskData:
    """OK-VQA's test split; of its pictures, that of the first query is broken, and that of the third is not there."""
    shutil.copytree(world / "coco", tmp_path / "raw" / "coco")
    data = load_task("OKVQA", built, images=tmp_path / "raw")
    broken, missing = (tmp_path / "raw" / "coco" / data.queries["img_path"][row] for row in (0, 2))
    broken.write_bytes(broken.read_bytes()[:200])
    missing.unlink()
    return data


def unread(data: TaskData) -> list[str]:
    paths = data.queries["img_path"]
    return data.queries.filter(paths.is_in([paths[0], paths[2]]))["question_id"].to_list()


def files(data: TaskData) -> dict[str, str | None]:
    """Those two pictures, with the SHA-256 of what is there of them."""
    assert data.images is not None
    first, third = (data.queries["img_path"][row] for row in (0, 2))
    found = data.images.find(first)
    assert found is not None
    return {first: hashlib.sha256(found.read()).hexdigest(), third: None}


@pytest.mark.parametrize("handling", ["black", "skip"])
def test_an_evaluation_goes_on_without_them_and_says_so(spoiled: TaskData, tmp_path: Path, handling: Any) -> None:
    made = Seeing()
    result = evaluate_task(made, spoiled, tmp_path / "out", TaskOptions(quiet=True, bad_images=handling))
    assert result["bad_images"] == {"handling": handling, "queries": len(unread(spoiled)), "files": files(spoiled)}
    black = [
        name for name, item in zip(spoiled.queries["question_id"], made.asked, strict=True) if is_black(item["image"])
    ]
    assert black == unread(spoiled)
    run = dict(zip(*ids_of(tmp_path / "out", result), strict=True))
    assert [len(run.get(name, [])) > 0 for name in unread(spoiled)] == [handling == "black"] * len(unread(spoiled))
    assert all(run[name] for name in spoiled.queries["question_id"] if name not in unread(spoiled))
    assert "* some pictures could not be read" in table([result])
    again = evaluate_task(made, spoiled, tmp_path / "out", TaskOptions(quiet=True, bad_images=handling))
    assert again == result


def is_black(image: Image.Image) -> bool:
    return image.size == BLACK_SIZE and image.getbbox() is None


def ids_of(out: Path, result: Any) -> tuple[list[str], list[list[str]]]:
    run = read_run(out / "OKVQA.run.trec.gz", result)
    return run.query_ids, run.passage_ids


def test_skipped_queries_score_nothing(spoiled: TaskData, tmp_path: Path) -> None:
    black, skip = (
        evaluate_task(Seeing(), spoiled, tmp_path / how, TaskOptions(quiet=True, bad_images=how))  # type: ignore[arg-type]
        for how in ("black", "skip")
    )
    assert skip["metrics"]["Recall@500"] < black["metrics"]["Recall@500"]
    share = len(unread(spoiled)) / spoiled.queries.height
    assert skip["metrics"]["Recall@500"] <= 1 - share


def test_without_the_option_it_ends_and_names_it(spoiled: TaskData, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"1 of .* images of OKVQA are not in.*--bad-images black"):
        evaluate_task(Seeing(), spoiled, tmp_path / "out", TaskOptions(quiet=True))


def test_where_every_picture_is_there_the_result_says_nothing_of_it(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("OKVQA", built, images=world)
    plain, asked = (
        evaluate_task(Seeing(), data, tmp_path / how, TaskOptions(quiet=True, bad_images=how))  # type: ignore[arg-type]
        for how in ("error", "skip")
    )
    assert asked["bad_images"] is None
    assert asked["metrics"] == plain["metrics"]
    assert asked["run_sha256"] == plain["run_sha256"]


def test_a_wrong_root_is_no_matter_of_some_bad_pictures(built: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = load_task("OKVQA", built, images=tmp_path / "empty")
    with pytest.raises(M2KRError, match=r"none of the .* images of OKVQA can be used"):
        evaluate_task(Seeing(), data, tmp_path / "out", TaskOptions(quiet=True, bad_images="black"))


def test_a_path_that_leaves_its_root_is_never_passed_over(spoiled: TaskData, tmp_path: Path) -> None:
    inside, other = (tmp_path / "raw" / "coco" / spoiled.queries["img_path"][row] for row in (1, 4))
    inside.unlink()
    inside.symlink_to(shutil.copy(other, tmp_path / "elsewhere.jpg"))
    with pytest.raises(M2KRError, match="below no image root"):
        evaluate_task(Seeing(), spoiled, tmp_path / "out", TaskOptions(quiet=True, bad_images="black"))


@pytest.mark.parametrize("handling", ["black", "skip"])
def test_answering_goes_on_without_them_and_says_so(spoiled: TaskData, tmp_path: Path, handling: Any) -> None:
    reader = Seeker()
    options = AnswerTaskOptions(quiet=True, bad_images=handling)
    result = answer_task(reader, spoiled, no_passages(spoiled), tmp_path, options)
    assert result["bad_images"] == {"handling": handling, "queries": len(unread(spoiled)), "files": files(spoiled)}
    (file,) = tmp_path.glob("answers/*/*.predictions.jsonl")

    said = {line["question_id"]: line["answer"] for line in map(json.loads, file.read_text().splitlines())}
    assert {said[name] for name in unread(spoiled)} == {"" if handling == "skip" else "unknown"}
    assert {answer for name, answer in said.items() if name not in unread(spoiled)} == {"unknown"}


def test_a_finished_result_is_not_given_out_for_other_pictures(built: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "coco", tmp_path / "raw" / "coco")
    data = load_task("OKVQA", built, images=tmp_path / "raw")
    options = TaskOptions(quiet=True)
    first = evaluate_task(Seeing(), data, tmp_path / "out", options)
    assert first["pictures"]
    assert evaluate_task(Seeing(), data, tmp_path / "out", options) == first
    path = tmp_path / "raw" / "coco" / data.queries["img_path"][0]
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(M2KRError, match=r"other pictures.*--rerun"):
        evaluate_task(Seeing(), data, tmp_path / "out", options)
    again = evaluate_task(Seeing(), data, tmp_path / "out", TaskOptions(quiet=True, rerun=True))
    assert again["pictures"] != first["pictures"]
    path.unlink()  # without its pictures, a finished result stands
    assert evaluate_task(Seeing(), data, tmp_path / "out", options) == again


@pytest.mark.parametrize("row", [0, 2], ids=["mended", "put there"])
@pytest.mark.parametrize("handling", ["black", "skip"])
def test_a_result_without_a_picture_is_not_given_out_when_it_is_there(
    spoiled: TaskData, world: Path, tmp_path: Path, handling: Any, row: int
) -> None:
    options, answering = (
        TaskOptions(quiet=True, bad_images=handling),
        AnswerTaskOptions(quiet=True, bad_images=handling),
    )

    def both(**changes: Any) -> list[Any]:
        return [
            evaluate_task(Seeing(), spoiled, tmp_path / "out", replace(options, **changes)),
            answer_task(Seeker(), spoiled, no_passages(spoiled), tmp_path / "out", replace(answering, **changes)),
        ]

    first = both()
    name = spoiled.queries["img_path"][row]
    place = tmp_path / "raw" / "coco" / name
    place.unlink(missing_ok=True)  # a bad picture that is gone is as bad
    assert both() == first
    shutil.copy(world / "coco" / name, place)
    for make in (
        lambda: evaluate_task(Seeing(), spoiled, tmp_path / "out", options),
        lambda: answer_task(Seeker(), spoiled, no_passages(spoiled), tmp_path / "out", answering),
    ):
        with pytest.raises(M2KRError, match=rf"OKVQA.*\.json was made without the picture {name}.*--rerun"):
            make()
    for result in both(rerun=True):
        assert name not in result["bad_images"]["files"]
    other = spoiled.queries["img_path"][1]
    Image.new("RGB", (8, 8)).save(tmp_path / "raw" / "coco" / other)
    with pytest.raises(M2KRError, match="other pictures"):  # one that was read is another now
        evaluate_task(Seeing(), spoiled, tmp_path / "out", options)


def test_what_a_kill_left_of_a_run_without_a_picture_is_not_gone_on_with_when_it_is_there(
    spoiled: TaskData, world: Path, tmp_path: Path
) -> None:
    options = TaskOptions(quiet=True, bad_images="black")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "score", kill)
        with pytest.raises(ZeroDivisionError):
            evaluate_task(Seeing(), spoiled, tmp_path / "out", options)
    name = spoiled.queries["img_path"][2]
    shutil.copy(world / "coco" / name, tmp_path / "raw" / "coco" / name)
    made = Seeing()
    evaluate_task(made, spoiled, tmp_path / "out", options)
    assert [is_black(item["image"]) for item in made.asked[:3]] == [True, False, False]
