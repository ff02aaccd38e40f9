"""A task with all that file formats stumble over, exported in every form."""

import hashlib

import polars as pl
import pytest
from PIL import Image

from m2kr.dataset import load_task
from m2kr.export.files import WRITERS
from m2kr.export.task import export_task
from m2kr.images.roots import parse_roots


@pytest.fixture(scope="session")
def awkward(built, tmp_path_factory):
    """LLaVA with a query without a positive, and ids and texts that file formats stumble over; without a manifest."""
    folder = tmp_path_factory.mktemp("awkward")
    names = {1: 'a "b" c', 2: "100% d", 3: "é\u2028\u00a0f", 4: '"', 5: "tab\there"}
    queries = pl.read_parquet(built / "LLaVA_data" / "test-*.parquet")
    passages = pl.read_parquet(built / "LLaVA_passages" / "test_passages-*.parquet")
    renamed = {passages["passage_id"][row]: f"p {name}" for row, name in names.items()}
    questions = queries["question"].to_list()
    questions[1:5] = ["a\tb", "a\nb\r\nc", 'say "x" \\ {', "\x00 \u2028 \x85 \x1c é 😀"]
    ids = [f"q {names[row]}" if row in names else name for row, name in enumerate(queries["question_id"])]
    positives = [[] if row == 7 else items for row, items in enumerate(queries["pos_item_ids"].to_list())]
    queries = queries.with_columns(
        pl.Series("question", questions),
        pl.Series("question_id", ids),
        pl.Series("pos_item_ids", [[renamed.get(item, item) for item in items] for items in positives]),
        pos_item_contents=pl.when(pl.int_range(pl.len()) == 7).then([]).otherwise("pos_item_contents"),
    )
    passages = passages.with_columns(
        pl.col("passage_id").replace(renamed),
        pl.when(pl.int_range(pl.len()) < 3)
        .then(pl.lit('  line\none\r\ttwo "three" \x0b é '))
        .otherwise("passage_content")
        .alias("passage_content"),
    )
    for config, split, frame in (("data", "test", queries), ("passages", "test_passages", passages)):
        (folder / f"LLaVA_{config}").mkdir()
        frame.write_parquet(folder / f"LLaVA_{config}" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def pictures(awkward, world, tmp_path_factory):
    """The pictures of `awkward`. The first says that it lies on its side, which some decoders obey."""
    root = tmp_path_factory.mktemp("pictures")
    data = load_task("LLaVA", awkward, images=world)
    assert data.images is not None
    for row, path in enumerate(data.queries["img_path"]):
        file = data.images.find(path)
        assert file is not None
        target = root / "coco" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if row:
            target.write_bytes(file.read())
        else:
            exif = Image.Exif()
            exif[0x0112] = 6
            data.query_image(row).save(target, "JPEG", exif=exif)
    return root


@pytest.fixture(scope="session")
def exported(awkward, pictures, tmp_path_factory):
    """`awkward` in all forms, a folder each."""
    out = tmp_path_factory.mktemp("exported")
    for form in WRITERS:
        export_task(awkward, "LLaVA", form, out / form, images=parse_roots([str(pictures)]), quiet=True)
    return out


@pytest.fixture(scope="session")
def tree():
    """Tells the files of a folder: name -> hash."""

    def of(folder):
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return of


@pytest.fixture(scope="session")
def judged():
    """Tells the relevance judgements that an export of data has to hold."""

    def of(data):
        stand_in = {data.passages["passage_id"][0]: 0}
        return {query: dict.fromkeys(ids, 1) or stand_in for query, ids in data.qrels.items()}

    return of
