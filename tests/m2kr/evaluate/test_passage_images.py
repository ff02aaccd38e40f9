"""Passages with pictures: who is given them, and that the result says so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from baselines.bm25 import BM25
from m2kr.ask import ask
from m2kr.dataset import TaskData, load_task, nano_subset
from m2kr.errors import M2KRError
from m2kr.evaluate import batch_effect, encode
from m2kr.evaluate.batch_effect import effect_of_batches
from m2kr.evaluate.compare import compare_results
from m2kr.evaluate.encode import Encoder
from m2kr.evaluate.options import EncodeOptions, TaskOptions
from m2kr.evaluate.passages import PassagePictures
from m2kr.evaluate.task import evaluate_task
from m2kr.images.pack import pack_task
from m2kr.images.query_pictures import BLACK_SIZE
from m2kr.images.roots import parse_roots
from m2kr.results.table import table
from m2kr.tasks import TASKS
from tests.m2kr.evaluating import Seeing, comparable, run_of, sorted_by_id, text_of, vector_of

QUIET = TaskOptions(quiet=True)


class Looking(Seeing):
    """Reads passages with pictures, and looks at their colours alone."""

    reads_passage_images = True

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack([self._vector(item) for item in inputs])

    def _vector(self, item: Any) -> Any:
        if isinstance(item, str):
            return vector_of(item)[:6]
        pixels = np.asarray(item["image"], dtype=np.float32) / 255 - 0.5
        moments = np.concatenate([pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))])
        return (moments / np.linalg.norm(moments)).astype(np.float32)


class Preparing(Looking):
    """Gets pictures, of passages too, as its own function made them."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.prepare_image = np.asarray


class Reading(Seeing):
    """Says that it reads passages with pictures, and reads their texts."""

    reads_passage_images = True


@pytest.fixture
def data(illustrated: Path, world: Path, passage_pictures: Path) -> TaskData:
    """E-VQA's test split; one passage has no picture."""
    loaded = load_task("EVQA", illustrated, images=parse_roots([str(world), str(passage_pictures)]))
    last = pl.int_range(pl.len()) == pl.len() - 1
    return replace(loaded, passages=loaded.passages.with_columns(img_path=pl.when(~last).then("img_path")))


def test_a_retriever_that_reads_them_gets_text_and_picture_and_the_others_texts(
    data: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looking, seeing = Looking(), Seeing()
    with_pictures = evaluate_task(looking, data, tmp_path / "looking", TaskOptions())
    assert "some passages have pictures of their own; fake-single reads them" in capsys.readouterr().err
    without = evaluate_task(seeing, data, tmp_path / "seeing", TaskOptions())
    assert "fake-single reads only their texts" in capsys.readouterr().err
    assert (with_pictures["passage_images"], without["passage_images"]) == ("read", "not read")
    assert [text_of(item) for item in looking.read] == seeing.read == sorted_by_id(data)
    assert data.images is not None
    paths = data.passages.sort("passage_id", descending=True)["img_path"]
    assert paths.null_count() > 0
    for item, path in zip(looking.read, paths, strict=True):
        assert isinstance(item, str) is (path is None)
        if path is not None:
            assert item["image"].tobytes() == data.images.open(path).tobytes()
    assert all(not isinstance(item, str) for item in looking.asked)
    assert with_pictures["pictures"] != without["pictures"]
    assert evaluate_task(looking, data, tmp_path / "looking", QUIET) == with_pictures


def test_they_are_ignored_where_that_is_asked_for_and_the_run_is_that_of_texts(
    data: TaskData, built: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looking = Looking()
    result = evaluate_task(looking, data, tmp_path / "ignored", TaskOptions(ignore_passage_images=True))
    assert "; they are ignored" in capsys.readouterr().err
    assert result["passage_images"] == "ignored"
    assert looking.read == sorted_by_id(data)
    with pytest.raises(M2KRError, match="other settings"):
        evaluate_task(Looking(), data, tmp_path / "ignored", QUIET)
    plain = evaluate_task(Looking(), load_task("EVQA", built, images=world), tmp_path / "plain", QUIET)
    assert plain["passage_images"] is None
    assert run_of(tmp_path / "plain", "EVQA") == run_of(tmp_path / "ignored", "EVQA")
    assert (plain["pictures"], plain["metrics"]) == (result["pictures"], result["metrics"])


def test_where_no_passage_has_a_picture_option_and_attribute_change_nothing(
    built: Path, world: Path, tmp_path: Path
) -> None:
    data = load_task("OVEN", built, images=world)
    for name, made, off in (("usual", Seeing(), False), ("attribute", Reading(), False), ("option", Seeing(), True)):
        evaluate_task(made, data, tmp_path / name, TaskOptions(quiet=True, ignore_passage_images=off))
    one, *others = (comparable(tmp_path / name / "OVEN.json") for name in ("usual", "attribute", "option"))
    assert others == [one, one]  # with the key, by which finished results are found


def test_a_picture_finds_the_passage_that_shows_the_same(data: TaskData, tmp_path: Path) -> None:
    """The fake looks at nothing but colours, so that without passages' pictures it guesses."""
    found, blind = (
        evaluate_task(Looking(), data, tmp_path / str(off), TaskOptions(quiet=True, ignore_passage_images=off))
        for off in (False, True)
    )
    assert found["metrics"]["Recall@20"] > blind["metrics"]["Recall@20"]


def test_a_ranker_gets_texts(data: TaskData, tmp_path: Path) -> None:
    options = TaskOptions(quiet=True, ignore_images=True)
    assert evaluate_task(BM25(), data, tmp_path, options)["passage_images"] == "not read"


def test_pictures_are_prepared_by_the_retriever(data: TaskData, tmp_path: Path) -> None:
    made = Preparing()
    evaluate_task(made, data, tmp_path / "prepared", QUIET)
    evaluate_task(Looking(), data, tmp_path / "plain", QUIET)
    assert {type(item["image"]) for item in made.read if not isinstance(item, str)} == {np.ndarray}
    assert run_of(tmp_path / "prepared", "EVQA") == run_of(tmp_path / "plain", "EVQA")


def test_an_encoding_that_was_killed_goes_on_where_it_was(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "IMAGE_CHUNK", 16)
    evaluate_task(Looking(), data, tmp_path / "whole", QUIET)
    made = Looking()
    made.fail = lambda: len(made.read) >= 32
    with pytest.raises(ZeroDivisionError):
        evaluate_task(made, data, tmp_path / "killed", QUIET)
    again = Looking()
    evaluate_task(again, data, tmp_path / "killed", QUIET)
    assert len(again.read) == data.passages.height - 32
    assert run_of(tmp_path / "killed", "EVQA") == run_of(tmp_path / "whole", "EVQA")


def test_kept_embeddings_are_those_of_the_same_pictures(data: TaskData, tmp_path: Path) -> None:
    keep = TaskOptions(quiet=True, keep_embeddings=True)
    evaluate_task(Looking(), data, tmp_path, keep)
    ignoring = evaluate_task(Looking(), data, tmp_path, replace(keep, ignore_passage_images=True, rerun=True))
    assert ignoring["reused"] == ["encode_queries"]
    found = evaluate_task(Looking(), data, tmp_path, replace(keep, rerun=True))
    assert found["reused"] == ["encode_passages", "encode_queries"]
    question: Any = {"text": "", "image": Image.new("RGB", (8, 8), (200, 30, 30))}
    asked = Looking()
    encoder = Encoder(asked, tmp_path / ".embeddings", EncodeOptions(quiet=True))
    with_pictures = ask(asked, data, question, 3, encoder)
    without = ask(asked, data, question, 3, encoder, ignore_passage_images=True)
    assert not asked.read
    assert with_pictures != without
    others = replace(data, passages=data.passages.with_columns(img_path=pl.col("img_path").shift()))
    ask(asked, others, question, 3, encoder)
    assert len(asked.read) == data.passages.height


def test_what_batches_do_is_measured_with_the_pictures(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_effect, "SAMPLED", 5)
    made = Looking()
    passages = data.passages.sort("passage_id", descending=True)
    encoder = Encoder(made, Path("nowhere"), EncodeOptions(quiet=True))
    pictures = PassagePictures.found(data, passages)
    texts = passages["passage_content"].to_list()
    found = effect_of_batches(encoder, data, texts, pictures=True, passage_pictures=pictures)
    assert found is not None
    assert max(found.values()) < 1e-6
    spread = [round(place) for place in np.linspace(0, len(texts) - 1, 5)]
    assert [not isinstance(item, str) for item in made.read[:5]] == [
        passages["img_path"][row] is not None for row in spread
    ]


@pytest.mark.parametrize("kept", [False, True])
def test_8_bits_are_measured_with_the_pictures(data: TaskData, tmp_path: Path, kept: bool) -> None:
    if kept:
        evaluate_task(Looking(), data, tmp_path, TaskOptions(quiet=True, keep_embeddings=True))
    made = Looking()
    result = evaluate_task(made, data, tmp_path, TaskOptions(quiet=True, store_dtype="int8", rerun=True))
    assert result["quantisation"] is not None
    assert result["quantisation"]["overlap"] > 0.8
    pictured = sum(not isinstance(item, str) for item in made.read)
    every = data.passages.height - data.passages["img_path"].null_count()
    assert pictured == (every if kept else 2 * every)


# --- what is missing ------------------------------------------------------------------------------------------------


@pytest.fixture
def spoiled(illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path) -> TaskData:
    """OVEN's test split, where the picture of one passage is broken, and that of another is not there."""
    shutil.copytree(passage_pictures, tmp_path / "pictures")
    data = load_task("OVEN", illustrated, images=parse_roots([str(world), str(tmp_path / "pictures")]))
    broken, missing = (tmp_path / "pictures" / data.passages["img_path"][row] for row in (0, 2))
    broken.write_bytes(broken.read_bytes()[:200])
    missing.unlink()
    return data


def test_one_that_is_missing_ends_the_evaluation_before_anything_is_encoded(spoiled: TaskData, tmp_path: Path) -> None:
    made = Looking()
    with pytest.raises(M2KRError, match=r"1 of .* images of OVEN's passages are not in .*--ignore-passage-images"):
        evaluate_task(made, spoiled, tmp_path / "out", QUIET)
    assert not made.read
    evaluate_task(Seeing(), spoiled, tmp_path / "texts", QUIET)  # which needs none of them


@pytest.mark.parametrize("handling", ["black", "skip"])
def test_an_evaluation_goes_on_without_them_and_says_so(spoiled: TaskData, tmp_path: Path, handling: Any) -> None:
    made = Looking()
    result = evaluate_task(made, spoiled, tmp_path / "out", TaskOptions(quiet=True, bad_images=handling))
    files = {
        spoiled.passages["img_path"][row]: result["bad_images"]["files"][spoiled.passages["img_path"][row]]
        for row in (0, 2)
    }
    assert result["bad_images"] == {"handling": handling, "queries": 0, "passages": 2, "files": files}
    assert [value and len(value) for value in files.values()] == [64, None]
    bad = [spoiled.passages["passage_content"][row] for row in (0, 2)]
    given = [item for item in made.read if text_of(item) in bad]
    assert [isinstance(item, str) for item in given] == [handling == "skip"] * 2
    if handling == "black":
        assert {(item["image"].size, item["image"].getbbox()) for item in given} == {(BLACK_SIZE, None)}
    assert "* some pictures of passages could not be read" in table([result])


@pytest.mark.parametrize("handling", ["black", "skip"])
def test_a_result_without_one_is_not_given_out_when_it_is_there(
    spoiled: TaskData, passage_pictures: Path, tmp_path: Path, handling: Any
) -> None:
    options = TaskOptions(quiet=True, bad_images=handling)
    first = evaluate_task(Looking(), spoiled, tmp_path / "out", options)
    assert evaluate_task(Looking(), spoiled, tmp_path / "out", options) == first
    name = spoiled.passages["img_path"][2]
    shutil.copy(passage_pictures / name, tmp_path / "pictures" / name)
    with pytest.raises(M2KRError, match=rf"made without the picture {name}.*--rerun"):
        evaluate_task(Looking(), spoiled, tmp_path / "out", options)
    again = evaluate_task(Looking(), spoiled, tmp_path / "out", replace(options, rerun=True))
    assert again["bad_images"] is not None
    assert again["bad_images"].get("passages") == 1


def test_a_broken_one_is_named(spoiled: TaskData, tmp_path: Path) -> None:
    there = spoiled.passages.filter(pl.col("img_path") != spoiled.passages["img_path"][2])
    with pytest.raises(M2KRError, match=f"of passage {there['passage_id'][0]} of OVEN cannot be used"):
        evaluate_task(Looking(), replace(spoiled, passages=there), tmp_path / "out", QUIET)


def test_a_finished_result_is_not_given_out_for_other_pictures(
    illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(passage_pictures, tmp_path / "pictures")
    data = load_task("OVEN", illustrated, images=parse_roots([str(world), str(tmp_path / "pictures")]))
    evaluate_task(Looking(), data, tmp_path / "out", QUIET)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / data.passages["img_path"][0])
    with pytest.raises(M2KRError, match=r"other pictures.*--rerun"):
        evaluate_task(Looking(), data, tmp_path / "out", QUIET)


def test_without_a_root_their_folder_is_asked_for(illustrated: Path, tmp_path: Path) -> None:
    data = load_task("OVEN", illustrated)
    with pytest.raises(M2KRError, match=r"passages of OVEN have images\. Name their folder with --images"):
        evaluate_task(Looking(), data, tmp_path, TaskOptions(quiet=True, ignore_images=True))


def test_packed_pictures_are_enough(illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path) -> None:
    roots = parse_roots([str(world), str(passage_pictures)])
    folder = tmp_path / "data"
    for config in ("OVEN_data", "OVEN_passages"):
        shutil.copytree(illustrated / config, folder / config)
    pack_task(folder, TASKS["OVEN"], roots, out=folder, quiet=True)
    evaluate_task(Looking(), load_task("OVEN", folder), tmp_path / "packed", QUIET)
    evaluate_task(Looking(), load_task("OVEN", folder, images=roots), tmp_path / "named", QUIET)
    assert run_of(tmp_path / "packed", "OVEN") == run_of(tmp_path / "named", "OVEN")


# --- what is said of results ----------------------------------------------------------------------------------------


def test_comparing_says_where_results_differ_in_them(data: TaskData, illustrated: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name / "fake" for name in ("read", "ignored")]
    for folder in folders:
        options = TaskOptions(quiet=True, ignore_passage_images=folder.parent.name == "ignored")
        evaluate_task(Looking(), data, folder, options)
    said = compare_results(folders, str(illustrated))
    assert "different uses of the passages' pictures: read, ignored" in said
    assert "* the model was given pictures of passages" in said


def test_a_nano_subset_keeps_them(data: TaskData, tmp_path: Path) -> None:
    result = evaluate_task(Looking(), nano_subset(data, queries=5, passages=30), tmp_path, QUIET)
    assert (result["nano"], result["passage_images"]) == (True, "read")
