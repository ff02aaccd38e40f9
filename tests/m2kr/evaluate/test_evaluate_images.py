"""`m2kr.evaluate`: which retriever gets images and instructions, and pictures that are missing or broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode
from m2kr.evaluate.task import evaluate_task
from tests.m2kr.evaluating import KINDS, Seeing, evaluated, vector_of


def test_a_retriever_that_reads_images_gets_them_decoded(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", built, images=world)
    made = Seeing()
    result = evaluate_task(made, data, tmp_path, quiet=True)
    assert (result["ignored_inputs"], result["instructions"]) == ([], True)
    assert [item["text"] for item in made.asked] == data.query_texts(instructions=True)
    for row, item in enumerate(made.asked):
        assert set(item) == {"text", "image"}
        assert isinstance(item["image"], Image.Image)
        assert item["image"].mode == "RGB"
        assert item["image"].tobytes() == data.query_image(row).tobytes()
    assert all(isinstance(item, str) for item in made.read)


class Preparing(Seeing):
    """Gets pictures as its own function made them, and tells them apart."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.prepare_image = np.asarray

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack(
            [vector_of(item if isinstance(item, str) else item["image"].tobytes().hex()) for item in inputs]
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_retriever_gets_pictures_as_it_prepares_them(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(encode, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 8)
    data = load_task("LLaVA", built, images=world)
    made = Preparing()
    evaluate_task(made, data, tmp_path, quiet=True, workers=workers)
    for row, item in enumerate(made.asked):
        assert item["image"].dtype == np.uint8
        np.testing.assert_array_equal(item["image"], np.asarray(data.query_image(row)))
    assert len(made.asked) == data.queries.height


def with_a_broken_picture(built: Path, world: Path, root: Path, row: int) -> tuple[TaskData, Path]:
    """LLaVA with pictures in ``root``, that of one row broken."""
    whole = load_task("LLaVA", built, images=world)
    for number, path in enumerate(whole.queries["img_path"]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        whole.query_image(number).save(root / path)
    broken = root / whole.queries["img_path"][row]
    broken.write_bytes(b"no picture" * 100)
    return load_task("LLaVA", built, images=root), broken


def test_a_broken_picture_is_named_and_what_came_before_it_is_kept(
    built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 4)
    data, broken = with_a_broken_picture(built, world, tmp_path / "pictures", row=9)
    whole = broken.read_bytes()
    made = Seeing()
    with pytest.raises(M2KRError) as raised:
        evaluate_task(made, data, tmp_path / "out", quiet=True)
    for part in (str(data.queries["img_path"][9]), str(data.queries["question_id"][9]), "cannot be decoded", "kept"):
        assert part in str(raised.value)
    assert len(made.asked) == 8
    Image.new("RGB", (9, 9)).save(broken)
    broken.write_bytes(broken.read_bytes().ljust(len(whole), b"\0"))  # of the same size: the work goes on
    again = Seeing()
    evaluate_task(again, data, tmp_path / "out", quiet=True)
    assert not again.read
    assert len(again.asked) == data.queries.height - 8


def test_queries_are_encoded_anew_when_pictures_change(built: Path, world: Path, tmp_path: Path) -> None:
    data, broken = with_a_broken_picture(built, world, tmp_path / "pictures", row=0)
    Image.new("RGB", (9, 9)).save(broken)
    options: dict[str, Any] = {"quiet": True, "keep_embeddings": True, "rerun": True}
    evaluate_task(Seeing(), data, tmp_path / "out", **options)
    Image.new("RGB", (30, 30)).save(broken)
    made = Seeing()
    assert evaluate_task(made, data, tmp_path / "out", **options)["reused"] == ["encode_passages"]
    assert len(made.asked) == data.queries.height


def test_a_retriever_that_reads_images_gets_texts_where_there_are_none(msmarco: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluate_task(made, msmarco, tmp_path, quiet=True)["ignored_inputs"] == []
    assert made.asked == msmarco.query_texts(instructions=True)


def test_images_can_be_kept_from_a_retriever_that_reads_them(okvqa: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluated(made, okvqa, tmp_path)["ignored_inputs"] == ["image"]
    assert made.asked == okvqa.query_texts(instructions=True)


@pytest.mark.parametrize("make", KINDS)
def test_an_image_task_is_refused_to_a_retriever_of_texts(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    with pytest.raises(M2KRError, match=r"OKVQA asks with images \(IQ2T\) and .* reads only text"):
        evaluate_task(make(), okvqa, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_encoded(built: Path, tmp_path: Path, given: bool) -> None:
    (tmp_path / "empty").mkdir()
    data = load_task("LLaVA", built, images=tmp_path / "empty" if given else None)
    made = Seeing()
    message = r"20 of 20 images of LLaVA are not in .*empty, the first is " if given else "have images. Name their"
    with pytest.raises(M2KRError, match=message):
        evaluate_task(made, data, tmp_path / "out", quiet=True)
    assert not made.read
    assert not (tmp_path / "out").exists()
