"""Pictures of every mode: each road to PreFLMR sees the same of them, and drops what is transparent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from baselines.preflmr.module import as_multi_vector_encoder
from baselines.preflmr.preflmr import PreFLMR
from baselines.preflmr.retriever import PreFLMRRetriever
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import mteb_task, search_model
from m2kr.export.task import export_task
from m2kr.images.pack import pack_task
from m2kr.images.roots import parse_roots
from m2kr.tasks import TASKS
from tests.baselines.images import MODES, write_picture
from tests.tolerance import assert_vectors_near

KEY = "LLaVA"
TEXT = "what is this"


@dataclass
class Data:
    """A task with one query for each picture, and the names of the pictures in the order of its queries."""

    folder: Path
    images: Path
    names: list[str]

    def picture(self, name: str) -> Image.Image:
        return Image.open(self.images / name)


@pytest.fixture(scope="module")
def data(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("modes")
    made = Data(root / "data", root / "images", list(MODES))
    made.images.mkdir()
    for name in made.names:
        write_picture(name, made.images / name)
    queries = pl.read_parquet(built / f"{KEY}_data" / "test-*.parquet").head(len(MODES))
    passages = pl.read_parquet(built / f"{KEY}_passages" / "test_passages-*.parquet")
    queries = queries.with_columns(
        pl.Series("img_path", made.names), question=pl.lit(TEXT), instruction=pl.lit(None, pl.String)
    )
    for config, split, frame in (("data", "test", queries), ("passages", "test_passages", passages)):
        (made.folder / f"{KEY}_{config}").mkdir(parents=True)
        frame.write_parquet(made.folder / f"{KEY}_{config}" / f"{split}-00000-of-00001.parquet")
    return made


class Kept(PreFLMRRetriever):
    """Keeps the vectors of queries."""

    def __init__(self, folder: Path) -> None:
        super().__init__("preflmr-vit-b", checkpoint=str(folder))
        self.found: list[np.ndarray] = []

    def encode_query(self, inputs: Any, batch_size: int = 32) -> list[np.ndarray]:
        found = super().encode_query(inputs, batch_size)
        self.found += found
        return found


Road = Callable[[Data, Path, Path], list[np.ndarray]]


def evaluated(data: Data, folder: Path, work: Path) -> list[np.ndarray]:
    retriever = Kept(folder)
    evaluate_task(retriever, load_task(KEY, data.folder, images=data.images), work, TaskOptions(quiet=True))
    return retriever.found[: len(data.names)]  # some are encoded again, to see what a batch does


def packed(data: Data, folder: Path, work: Path) -> list[np.ndarray]:
    pack_task(data.folder, TASKS[KEY], parse_roots([str(data.images)]), out=data.folder, quiet=True)
    retriever = Kept(folder)
    evaluate_task(retriever, load_task(KEY, data.folder), work / "results", TaskOptions(quiet=True))
    return retriever.found[: len(data.names)]


def by_our_search_in_mteb(data: Data, folder: Path, work: Path) -> list[np.ndarray]:
    retriever = Kept(folder)
    run_mteb(search_model(retriever), data, work)
    return retriever.found


def by_mteb(data: Data, folder: Path, work: Path) -> list[np.ndarray]:
    encoder = as_multi_vector_encoder(PreFLMR.from_pretrained(folder))
    wrapper = pytest.importorskip("mteb.models", reason="mteb evaluates; pip install mteb").MultiVectorWrapper(encoder)
    changes = {"modalities": ["text", "image"], "name": "m2kr/preflmr", "revision": "test"}
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update=changes)
    found: list[np.ndarray] = []
    encode = encoder.encode_query

    def keep(*arguments: Any, **options: Any) -> Any:
        vectors = encode(*arguments, **options)
        found.extend(np.asarray(own) for own in vectors)
        return vectors

    encoder.encode_query = keep
    run_mteb(wrapper, data, work)
    return found


def run_mteb(model: Any, data: Data, work: Path) -> None:
    mteb = pytest.importorskip("mteb", reason="mteb evaluates; pip install mteb")
    export_task(data.folder, KEY, "mteb", work / "export", images=parse_roots([str(data.images)]), quiet=True)
    options = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
    mteb.evaluate(model, mteb_task(work / "export", KEY), **options)


@pytest.fixture
def datasets_cache(tmp_path: Path) -> Iterator[None]:
    """`datasets` keeps the tables of an export in a folder of the test."""
    from datasets import config

    before, config.HF_DATASETS_CACHE = config.HF_DATASETS_CACHE, tmp_path / "cache"
    yield
    config.HF_DATASETS_CACHE = before


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("road", [evaluated, packed, by_our_search_in_mteb, by_mteb], ids=lambda road: road.__name__)
def test_every_mode_is_the_same_on_every_road(
    road: Road, data: Data, folder: Path, model: PreFLMR, tmp_path: Path
) -> None:
    given = model.encode_query([{"text": TEXT, "image": data.picture(name)} for name in data.names])
    found = road(data, folder, tmp_path)
    assert len(found) == len(data.names)
    for name, one, other in zip(data.names, found, given, strict=True):
        assert one.shape == other.shape, name
        assert_vectors_near([one], [other])


@pytest.mark.parametrize("name", sorted(MODES.keys() - {"I;16"}))
def test_what_is_transparent_keeps_its_colour(name: str, data: Data, model: PreFLMR) -> None:
    """As in transformers 4.49, of which the published figures are. Pillow notes a palette's colour in the RGB, too."""
    plain = Image.fromarray(np.asarray(data.picture(name).convert("RGB")))
    picture = data.picture(name)
    for given in (picture, picture.convert("RGB")):
        found = model.encode_query([{"text": TEXT, "image": given}])
        assert_vectors_near(found, model.encode_query([{"text": TEXT, "image": plain}]), 0)
    assert picture.mode == data.picture(name).mode


def test_other_models_are_given_no_transparent_colour_either(data: Data) -> None:
    """Processors of transformers look at it, and whiten all pixels of that colour, opaque ones too."""
    loaded = load_task(KEY, data.folder, images=data.images)
    for row, name in enumerate(data.names):
        picture = loaded.query_image(row)
        assert (picture.mode, picture.info.get("transparency")) == ("RGB", None), name
        if name != "I;16":
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(data.picture(name).convert("RGB")))


def test_the_pictures_are_of_the_modes_they_are_called_after(data: Data) -> None:
    modes = {name: data.picture(name).mode for name in data.names}
    assert modes == {name: {"MPO": "RGB"}.get(name, name.split()[0]) for name in data.names}
    assert {name for name in data.names if "transparency" in data.picture(name).info} == {"P", "P of GIF"}
    assert data.picture("MPO").format == "MPO"
