"""Evaluation in blocks, without Ray: what processes elsewhere do, done here in another order and with interruptions."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import m2kr
from m2kr.common import registry
from m2kr.common.cluster import Cluster
from m2kr.common.ray_actor import Host
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import blocks, encode, remote
from m2kr.evaluate.blocks import block_size
from m2kr.evaluate.options import EvaluateOptions, TaskOptions
from m2kr.evaluate.remote import RemoteRetriever
from m2kr.evaluate.shards import NOTE, PassageShards
from m2kr.evaluate.task import evaluate_task
from m2kr.images.pack import pack_task
from m2kr.images.packed import PackedImages
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.tasks import get_task
from tests.m2kr.clusters import Here
from tests.m2kr.evaluating import Seeing, comparable, entry_points_of, evaluated, run_of, vector_of

BLOCK = 16


class Looking(Seeing):
    """Reads pictures, of passages too, and looks at them alone."""

    reads_passage_images = True

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack([self._vector(item) for item in inputs])

    def _vector(self, item: Any) -> Any:
        if isinstance(item, str):
            return vector_of(item)[:6]
        pixels = np.asarray(item["image"], dtype=np.float32)
        return np.concatenate([pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))]) / 255


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocks, encode, remote):
        monkeypatch.setattr(module, "CHUNK", BLOCK)
        monkeypatch.setattr(module, "IMAGE_CHUNK", BLOCK)


def evaluated_remotely(model: str, data: TaskData, out: Path, cluster: Cluster, **given: Any) -> None:
    options = TaskOptions(quiet=True, **given)
    evaluate_task(RemoteRetriever(cluster, model, {"dtype": options.dtype}, options), data, out, options)


def assert_equal(found: Path, expected: Path, task: str) -> None:
    assert run_of(found, task) == run_of(expected, task)
    assert comparable(found / f"{task}.json") == {**comparable(expected / f"{task}.json"), "ray": {"nodes": 1}}
    assert {path.name.partition(".")[0] for path in found.iterdir()} == {task}


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("model", ["single", "multi"])
def test_results_are_those_of_one_process_in_any_form(
    okvqa: TaskData, registered: list[Any], tmp_path: Path, model: str, stored: Any
) -> None:
    evaluated_remotely(model, okvqa, tmp_path / "more", Here(), store_dtype=stored, ignore_images=True)
    evaluated(type(registered[0])(), okvqa, tmp_path / "one", store_dtype=stored)
    assert len(registered) == 1
    assert_equal(tmp_path / "more", tmp_path / "one", "OKVQA")


def test_pictures_of_queries_are_as_in_one_process(
    built: Path, world: Path, registered: list[Any], tmp_path: Path
) -> None:
    data = load_task("OKVQA", built, images=world)
    evaluated_remotely("seeing", data, tmp_path / "more", Here())
    evaluate_task(type(registered[0])(), data, tmp_path / "one", TaskOptions(quiet=True))
    assert_equal(tmp_path / "more", tmp_path / "one", "OKVQA")
    assert {item["image"].mode for item in registered[0].asked} == {"RGB"}


def test_pictures_of_passages_are_as_in_one_process(
    illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_here: list[Any] = []
    points = entry_points_of({"looking": Looking}, made_here)
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    data = load_task("EVQA", illustrated, images=parse_roots([str(world), str(passage_pictures)]))
    evaluated_remotely("looking", data, tmp_path / "more", Here())
    evaluate_task(Looking(), data, tmp_path / "one", TaskOptions(quiet=True))
    assert_equal(tmp_path / "more", tmp_path / "one", "EVQA")
    assert json.loads((tmp_path / "more" / "EVQA.json").read_text())["passage_images"] == "read"
    assert len(made_here) == 1


def test_what_is_done_before_a_kill_is_not_done_again(okvqa: TaskData, registered: list[Any], tmp_path: Path) -> None:
    first, count = Here(dies_after=3), okvqa.passages.height
    with pytest.raises(ZeroDivisionError):
        evaluated_remotely("multi", okvqa, tmp_path / "more", first, ignore_images=True)
    (note,) = tmp_path.rglob("blocks.json")
    starts = list(range(0, count, BLOCK))
    assert json.loads(note.read_text())["done"] == starts[-3:]
    evaluated_remotely("multi", okvqa, tmp_path / "more", Here(), ignore_images=True)
    evaluated(type(registered[0])(), okvqa, tmp_path / "one")
    assert_equal(tmp_path / "more", tmp_path / "one", "OKVQA")
    assert len(registered[0].read) == count - starts[-3]
    assert len(registered[1].read) == starts[-3]
    assert not registered[1].asked


@pytest.mark.parametrize(("model", "stored"), [("single", "float32"), ("multi", "bfloat16"), ("multi", "int8")])
def test_what_is_kept_is_what_one_process_keeps_and_is_used_again(
    okvqa: TaskData, registered: list[Any], tmp_path: Path, model: str, stored: Any
) -> None:
    def kept(out: Path) -> dict[str, bytes]:
        files = sorted((out / ".embeddings").glob("passages-*/*"))
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.name != NOTE}

    given = {"store_dtype": stored, "ignore_images": True}
    evaluated_remotely(model, okvqa, tmp_path / "more", Here(), keep_embeddings=True, **given)
    evaluated(type(registered[0])(), okvqa, tmp_path / "one", keep_embeddings=True, store_dtype=stored)
    assert kept(tmp_path / "more") == kept(tmp_path / "one") != {}
    for out in ("more", "one"):
        before = run_of(tmp_path / out, "OKVQA")
        evaluated_remotely(model, okvqa, tmp_path / out, Here(), rerun=True, **given)
        assert registered[-1].read == [] or stored == "int8"  # the effect of which is measured on a sample
        assert run_of(tmp_path / out, "OKVQA") == before
        assert "encode_passages" in json.loads((tmp_path / out / "OKVQA.json").read_text())["reused"]


def test_kept_vectors_that_are_gone_are_made_again_after_a_kill(
    okvqa: TaskData, registered: list[Any], tmp_path: Path
) -> None:
    def begun(cluster: Here) -> None:
        evaluated_remotely("multi", okvqa, tmp_path, cluster, ignore_images=True, keep_embeddings=True)

    count = okvqa.passages.height
    for lost in (False, True):
        with pytest.raises(ZeroDivisionError):
            begun(Here(dies_after=3))
        assert len(registered[-1].read) == 3 * BLOCK - (-count % BLOCK)
        if lost:
            max(tmp_path.rglob("passages/*.lengths.npy")).unlink()
        begun(Here())
        assert len(registered[-1].read) == count if lost else count - 3 * BLOCK + (-count % BLOCK)
        for path in [tmp_path / "OKVQA.json", *tmp_path.glob(".embeddings/*/*")]:
            path.unlink()
        for path in tmp_path.glob(".embeddings/*"):
            path.rmdir()


def test_a_folder_that_a_machine_does_not_see_is_named(tmp_path: Path) -> None:
    shards = PassageShards(tmp_path / "elsewhere", "key", "single", "float32", kept=False)
    with pytest.raises(M2KRError, match=r"elsewhere is not there.*--out in a folder that all machines share"):
        shards.write(0, np.ones((2, 3)))
    shards.begin()
    shards.write(0, np.ones((2, 3)))
    with pytest.raises(M2KRError, match=r"has the vectors of 2 of 4 passages"):
        shards.end(4, 3, 0.0, 0)


def test_kept_keys_that_are_gone_are_made_again(okvqa: TaskData, registered: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        evaluated_remotely("multi", okvqa, tmp_path / "more", Here(dies_after=3), ignore_images=True)
    (kept,) = tmp_path.rglob("best-*.npy")
    kept.unlink()
    evaluated_remotely("multi", okvqa, tmp_path / "more", Here(), ignore_images=True)
    evaluated(type(registered[0])(), okvqa, tmp_path / "one")
    assert_equal(tmp_path / "more", tmp_path / "one", "OKVQA")
    assert len(registered[1].read) == okvqa.passages.height


def test_what_ranks_by_itself_is_refused(registered: list[Any]) -> None:
    with pytest.raises(M2KRError, match=r"bm25 makes no vectors.*Leave out --ray"):
        RemoteRetriever(Here(), "bm25", {}, TaskOptions(quiet=True))


def test_blocks_are_whole_chunks_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for count in (0, 1, 2048, 400_000, 8_841_823):
        size = block_size(count, pictures=False)
        assert size % encode.CHUNK == 0
        assert count / size <= 512
    assert block_size(1_048_576, pictures=False) == encode.CHUNK
    assert block_size(1_048_577, pictures=False) == 2 * encode.CHUNK
    assert block_size(1000, pictures=True) == encode.IMAGE_CHUNK


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ray_actors": 2}, "which is not given"),
        ({"ray_gpus": 0.0}, "which is not given"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(M2KRError, match=told):
        EvaluateOptions(model="single", data="m2kr-data", **given)


def test_without_ray_installed_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(M2KRError, match=r'pip install "m2kr\[ray\]"'), Cluster("local"):
        pass


@pytest.fixture
def _on_a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7"))
    monkeypatch.setitem(sys.modules, "ray", node)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_on_a_node")
@pytest.mark.parametrize("other", ["another version", "not installed"])
def test_a_machine_without_this_m2kr_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str) -> None:
    if other == "not installed":
        monkeypatch.setitem(sys.modules, "m2kr.common.ray_actor", None)
    version = "0.0.1" if other == "another version" else m2kr.__version__
    well, told, node = Host().begin(version, str(tmp_path), "m2kr.evaluate.blocks:BlockWorker", {})
    assert (well, node) == (False, f"10.0.0.7 ({sys.executable} in {tmp_path})")
    assert ("install m2kr" if other == "not installed" else f"is {m2kr.__version__}, and here it is 0.0.1") in told


@pytest.mark.usefixtures("_on_a_node", "registered")
@pytest.mark.parametrize("model", ["no-such-retriever", "./no_such_file.py:Model"])
def test_a_machine_without_the_retriever_is_told_of(tmp_path: Path, model: str) -> None:
    given = {"model": model, "loading": {}, "encoding": {"quiet": True}}
    well, told, node = Host().begin(m2kr.__version__, str(tmp_path), "m2kr.evaluate.blocks:BlockWorker", given)
    assert (well, node) == (False, f"10.0.0.7 ({sys.executable} in {tmp_path})")
    assert model in told


@pytest.mark.usefixtures("_on_a_node", "registered")
@pytest.mark.parametrize("packed", [False, True])
def test_pictures_that_a_machine_does_not_see_are_named(built: Path, world: Path, tmp_path: Path, packed: bool) -> None:
    folder, okvqa = tmp_path / "here", get_task("OKVQA")
    shutil.copytree(world / "coco", folder / "coco")
    roots = ImageRoots([folder])
    if packed:
        pack_task(built, okvqa, ImageRoots([world]), out=folder, quiet=True)
        roots = ImageRoots([], finders=[PackedImages(folder / "OKVQA_images")])
    data = load_task("OKVQA", built, images=roots)
    given = {"model": "seeing", "loading": {}, "encoding": {"quiet": True}}
    host = Host()
    well, told, _ = host.begin(m2kr.__version__, str(tmp_path), "m2kr.evaluate.blocks:BlockWorker", given)
    assert well, told
    folder.rename(tmp_path / "elsewhere")
    well, told, node = host.call("queries", data, pictures=True)
    assert (well, node) == (False, "10.0.0.7")
    assert str(folder) in told


@pytest.mark.usefixtures("_on_a_node")
def test_any_file_that_a_machine_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(**_: Any) -> None:
        (tmp_path / "vocabulary.txt").read_text()

    monkeypatch.setattr(blocks, "BlockWorker", opened)
    well, told, _ = Host().begin(m2kr.__version__, str(tmp_path), "m2kr.evaluate.blocks:BlockWorker", {})
    assert not well
    assert told.startswith(f"{tmp_path / 'vocabulary.txt'}: ")
