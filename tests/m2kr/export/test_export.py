"""`m2kr.export`: what other tools read in an export is what the benchmark holds, and mteb's scores are ours."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baselines.bm25 import BM25
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import files, mteb_task, search_model
from m2kr.export import mteb as by
from m2kr.export.__main__ import main
from m2kr.export.files import WRITERS
from m2kr.export.mteb_results import export_results, task_result
from m2kr.export.task import export_task
from m2kr.images.pack import pack_task
from m2kr.images.roots import parse_roots
from m2kr.metrics import score
from m2kr.results.record import read_result
from m2kr.results.run import Run
from m2kr.tasks import get_task

FILES = {
    "trec": ["collection.jsonl", "qrels.txt", "queries.tsv"],
    "beir": ["corpus.jsonl", "qrels/test.tsv", "queries.jsonl"],
    "mteb": ["corpus-00000.parquet", "qrels-00000.parquet", "queries-00000.parquet"],
}


@pytest.fixture(scope="module")
def awkward(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture(scope="module")
def pictures(awkward: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture(scope="module")
def exported(awkward: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`awkward` in all forms, a folder each."""
    out = tmp_path_factory.mktemp("exported")
    for form in WRITERS:
        export_task(awkward, "LLaVA", form, out / form, images=parse_roots([str(pictures)]), quiet=True)
    return out


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def judged(data: TaskData) -> dict[str, dict[str, int]]:
    """The relevance judgements an export has to hold."""
    stand_in = {data.passages["passage_id"][0]: 0}
    return {query: dict.fromkeys(ids, 1) or stand_in for query, ids in data.qrels.items()}


# --- TREC -----------------------------------------------------------------------------------------------------------


def test_trec_qrels_and_a_run_are_scored_by_ir_measures_as_here(awkward: Path, exported: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", awkward)
    result = evaluate_task(BM25(), data, tmp_path, TaskOptions(quiet=True, ignore_images=True))
    qrels = list(ir_measures.read_trec_qrels(str(exported / "trec" / "LLaVA" / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "LLaVA.run.trec.gz")))
    assert {entry.query_id for entry in qrels} == {entry.query_id for entry in run}
    assert len(run) == data.queries.height * data.passages.height
    found = ir_measures.calc_aggregate([ir_measures.Success @ k for k in (1, 5, 10)], qrels, run)
    for k in (1, 5, 10):
        assert found[ir_measures.Success @ k] == pytest.approx(result["metrics"][f"Recall@{k}"], abs=1e-9)
    assert 0 < result["metrics"]["Recall@10"] < 1


def test_trec_ids_are_those_of_runs(awkward: Path, exported: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", awkward)
    Run.from_dict({query: dict.fromkeys(data.passages["passage_id"], 1.0) for query in data.qrels}).write_trec(
        tmp_path / "run.gz", "x"
    )
    lines = gzip.decompress((tmp_path / "run.gz").read_bytes()).decode().split("\n")[:-1]
    rows = [line.split(" ") for line in lines]
    folder = exported / "trec" / "LLaVA"
    queries = [line.split("\t")[0] for line in (folder / "queries.tsv").read_text("utf-8").splitlines()]
    passages = [json.loads(line)["id"] for line in (folder / "collection.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert queries == list(dict.fromkeys(row[0] for row in rows))
    assert sorted(passages) == sorted({row[2] for row in rows})
    assert "p%20100%25%20d" in passages


def test_trec_texts_stay_on_their_line(awkward: Path, exported: Path) -> None:
    data = load_task("LLaVA", awkward)
    folder = exported / "trec" / "LLaVA"
    # By splitlines, which knows more ends of lines than any other reader.
    texts = [line.split("\t") for line in (folder / "queries.tsv").read_text("utf-8").splitlines()]
    assert [len(fields) for fields in texts] == [2] * data.queries.height
    wanted = [" ".join(text.split()) for text in data.query_texts(instructions=True)]
    assert [" ".join(fields[1].split()) for fields in texts] == wanted
    assert texts[2][1].endswith("a b c")
    rows = [json.loads(line) for line in (folder / "collection.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [row["contents"] for row in rows] == data.passages["passage_content"].to_list()


# --- BEIR -----------------------------------------------------------------------------------------------------------


def test_beir_reads_what_the_benchmark_holds(awkward: Path, exported: Path) -> None:
    loader = pytest.importorskip("beir.datasets.data_loader", reason="beir reads the export; pip install beir")
    data = load_task("LLaVA", awkward)
    corpus, queries, qrels = loader.GenericDataLoader(str(exported / "beir" / "LLaVA")).load(split="test")
    assert {name: entry["text"] for name, entry in corpus.items()} == dict(
        data.passages.select("passage_id", "passage_content").iter_rows()
    )
    assert {entry["title"] for entry in corpus.values()} == {""}
    texts = data.query_texts(instructions=True)
    assert list(queries.items()) == list(zip(data.queries["question_id"], texts, strict=True))
    assert qrels == judged(data)


def test_beir_files_have_the_columns_of_the_format(exported: Path) -> None:
    folder = exported / "beir" / "LLaVA"
    assert (folder / "qrels" / "test.tsv").read_text("utf-8").split("\n")[0] == "query-id\tcorpus-id\tscore"
    for name, keys in (("corpus.jsonl", ["_id", "title", "text"]), ("queries.jsonl", ["_id", "text"])):
        lines = (folder / name).read_text("utf-8").split("\n")
        assert lines.pop() == ""
        assert all(list(json.loads(line)) == keys for line in lines)


def test_an_id_that_beir_cannot_hold_is_named(awkward: Path, tmp_path: Path) -> None:
    shutil.copytree(awkward, tmp_path / "data")
    path = next((tmp_path / "data" / "LLaVA_data").iterdir())
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("question_id", ["a\rb", *frame["question_id"][1:]])).write_parquet(path)
    with pytest.raises(M2KRError, match=r"the id 'a\\rb' of LLaVA holds a line break"):
        export_task(tmp_path / "data", "LLaVA", "beir", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "LLaVA").exists()


@given(text=st.text(st.characters(exclude_categories=["Cs"])), name=st.text(string.printable, min_size=1))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_from_beir_files(text: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    loader = pytest.importorskip("beir.datasets.data_loader", reason="beir reads the export; pip install beir")
    name = name.replace("\r", "").replace("\n", "") or "x"
    folder = tmp_path_factory.mktemp("any")
    (folder / "MSMARCO_data").mkdir()
    (folder / "MSMARCO_passages").mkdir()
    pl.DataFrame(
        {"question_id": [name], "question": [f"q{text}"], "instruction": [""], "pos_item_ids": [[name]]}
    ).write_parquet(folder / "MSMARCO_data" / "test-00000-of-00001.parquet")
    pl.DataFrame({"passage_id": [name], "passage_content": [text]}).write_parquet(
        folder / "MSMARCO_passages" / "test_passages-00000-of-00001.parquet"
    )
    out = export_task(folder, "MSMARCO", "beir", folder / "out", instructions=False, quiet=True)
    corpus, queries, qrels = loader.GenericDataLoader(str(out)).load(split="test")
    assert corpus == {name: {"title": "", "text": text}}
    assert queries == {name: f"q{text}"}
    assert qrels == {name: {name: 1}}


# --- the folder of an export ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_is_the_same_bytes_each_time(
    awkward: Path, pictures: Path, exported: Path, tmp_path: Path, form: str
) -> None:
    export_task(awkward, "LLaVA", form, tmp_path, images=parse_roots([str(pictures)]), quiet=True)
    card = ["README.md"] if form == "mteb" else []
    assert sorted(tree(tmp_path)) == sorted([*card, "export.json", *(f"LLaVA/{name}" for name in FILES[form])])
    assert tree(tmp_path) == tree(exported / form)


def test_what_is_exported_already_is_left_alone(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    export_task(built, "MSMARCO", "beir", tmp_path / "out")
    assert "MSMARCO: exported already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    export_task(built, "MSMARCO", "beir", tmp_path / "out", instructions=False, quiet=True)
    text = json.loads((folder / "queries.jsonl").read_text("utf-8").split("\n")[0])["text"]
    assert text == load_task("MSMARCO", built).queries["question"][0]


def test_a_second_split_lies_beside_the_first(built: Path, tmp_path: Path) -> None:
    for split in ("valid", "test"):
        export_task(built, "MSMARCO", "trec", tmp_path, split=split, quiet=True)
    parts = json.loads((tmp_path / "export.json").read_text())["parts"]
    assert list(parts) == ["MSMARCO", "MSMARCO.valid"]
    for name, split in (("MSMARCO", "test"), ("MSMARCO.valid", "valid")):
        data = load_task("MSMARCO", built, split)
        assert len((tmp_path / name / "queries.tsv").read_text("utf-8").splitlines()) == data.queries.height
        assert parts[name]["dataset"] == data.fingerprint


def test_a_folder_of_something_else_is_not_written_to(built: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(M2KRError, match="holds something that no export wrote"):
        export_task(built, "MSMARCO", "beir", tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(M2KRError, match="holds an export to 'trec', not to 'beir'"):
        export_task(built, "MSMARCO", "beir", exported / "trec", quiet=True)
    (tmp_path / "export.json").write_text("[]")
    with pytest.raises(M2KRError, match=r"export\.json is not a manifest of an export"):
        export_task(built, "MSMARCO", "beir", tmp_path, quiet=True)


def test_a_killed_export_is_made_again(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_task(built, "MSMARCO", "beir", tmp_path / "whole", quiet=True)
    passages = files.read_passages
    calls = []

    def killed(files: Any) -> Any:
        calls.append(files)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return passages(files)

    monkeypatch.setattr(files, "read_passages", killed)
    with pytest.raises(KeyboardInterrupt):
        export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "MSMARCO").exists()
    export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_queries_of_which_nothing_is_left_are_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"the queries of KVQA are images \(I2T\)"):
        export_task(built, "KVQA", "beir", tmp_path, instructions=False, quiet=True)


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_written(built: Path, tmp_path: Path, given: bool) -> None:
    (tmp_path / "empty").mkdir()
    images = parse_roots([str(tmp_path / "empty")]) if given else None
    message = "19 of 19 images of LLaVA are not in .*empty" if given else "have images, and none are packed"
    with pytest.raises(M2KRError, match=message):
        export_task(built, "LLaVA", "mteb", tmp_path / "out", images=images, quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_command_exports_what_is_there(awkward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(awkward), "--to", "beir", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out' / 'LLaVA'}\n"
    assert "images are left out" in printed.err
    for arguments, message in (
        ([str(awkward), "--tasks", "OKVQA"], "has no test split of OKVQA; it has one of LLaVA"),
        ([str(awkward), "--split", "valid"], "has no valid split of any task"),
        ([str(tmp_path / "none")], "is not a folder"),
    ):
        assert run_command(main, [*arguments, "--to", "beir", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


# --- mteb -----------------------------------------------------------------------------------------------------------


class Seeing:
    """Vectors from the colours of the picture and the letters of the text; it keeps what it is given."""

    name = "seeing"
    vectors = "multi"
    reads = frozenset({"text", "image"})
    reads_instructions = True

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"seed": 3}
        self.asked: list[Any] = []

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        self.asked.extend(inputs)
        return [
            np.stack([letters(item["text"]), np.asarray(item["image"].resize((2, 2)), np.float32).ravel() / 255])
            for item in inputs
        ]

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return [np.stack([letters(word) for word in (text.split() or ["x"])[:5]]) for text in inputs]


class Level(Seeing):
    """Everything ties with everything."""

    name = "level"
    vectors = "single"

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return np.ones((len(inputs), 2), dtype=np.float32)

    encode_document = encode_query


def letters(text: str) -> np.ndarray:
    return np.array([text.lower().count(c) for c in "etaoinshrdlu"], dtype=np.float32)


@pytest.fixture(scope="module")
def by_mteb(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Evaluates a retriever on an export, with mteb's own code; datasets keeps its tables in a folder of the tests."""
    mteb = pytest.importorskip("mteb", reason="mteb evaluates on the export; pip install mteb")
    from datasets import config

    cache = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")

    def run(retriever: Any, task: Any, **options: Any) -> Any:
        model = search_model(retriever, **options)
        return mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results[0]

    yield run
    config.HF_DATASETS_CACHE = cache


def check_equal(found: Any, metrics: dict[str, float], ks: Sequence[int] = (1, 5, 10, 20, 100)) -> dict[str, float]:
    (values,) = found.scores["test"]
    for k in ks:
        assert values[f"hit_rate_at_{k}"] == pytest.approx(metrics[f"Recall@{k}"], abs=1e-6)
        # mteb rounds these to 5 digits.
        assert values[f"recall_at_{k}"] == pytest.approx(metrics[f"recall_fraction@{k}"], abs=5.1e-6)
    assert values["mrr_at_10"] == pytest.approx(metrics["MRR@10"], abs=1e-6)
    assert values["ndcg_at_10"] == pytest.approx(metrics["nDCG@10"], abs=5.1e-6)
    return dict(values)


def test_mteb_scores_pictures_and_texts_as_here(
    awkward: Path, exported: Path, pictures: Path, by_mteb: Any, tmp_path: Path
) -> None:
    data = load_task("LLaVA", awkward, images=pictures)
    here, there = Seeing(), Seeing()
    metrics = evaluate_task(here, data, tmp_path, TaskOptions(quiet=True))["metrics"]
    found = by_mteb(there, mteb_task(exported / "mteb", "LLaVA"))
    values = check_equal(found, metrics)
    assert 0 < metrics["Recall@10"] < 1
    assert found.task_name == "M2KRLLaVA"
    assert found.dataset_revision == data.fingerprint
    assert (values["main_score"], values["hf_subset"]) == (values["hit_rate_at_1"], "LLaVA")
    assert [item["text"] for item in there.asked] == [item["text"] for item in here.asked]
    assert len(there.asked) == data.queries.height  # the query without a positive among them
    for one, other in zip(here.asked, there.asked, strict=True):
        assert isinstance(other["image"], Image.Image)
        assert one["image"].tobytes() == other["image"].tobytes()


def test_mteb_orders_ties_as_here(awkward: Path, exported: Path, pictures: Path, by_mteb: Any, tmp_path: Path) -> None:
    data = load_task("LLaVA", awkward, images=pictures)
    metrics = evaluate_task(Level(), data, tmp_path, TaskOptions(quiet=True))["metrics"]
    check_equal(by_mteb(Level(), mteb_task(exported / "mteb", "LLaVA")), metrics)
    assert metrics["Recall@20"] > 0


def test_what_is_cut_off_among_ties_are_the_smaller_ids() -> None:
    pytest.importorskip("mteb", reason="search_model describes itself to mteb; pip install mteb")
    from datasets import Dataset

    ids = ["b", "é", "d", "a", "c"]
    about = {"task_metadata": SimpleNamespace(name="made up", modalities=["text"])}
    model = search_model(Level())
    model.index(Dataset.from_dict({"id": ids, "text": ids}), **about)
    queries = Dataset.from_dict({"id": ["q"], "text": ["x"]})
    assert list(model.search(queries, top_k=3, **about)["q"]) == ["é", "d", "c"]
    assert set(model.search(queries, top_k=1000, **about)["q"]) == set(ids)
    with pytest.raises(M2KRError, match="ranks passages that were found before"):
        model.search(queries, top_k=3, top_ranked={"q": ["a"]}, **about)


def test_mteb_scores_a_ranker_without_instructions_as_here(built: Path, by_mteb: Any, tmp_path: Path) -> None:
    data = load_task("MSMARCO", built)
    metrics = evaluate_task(BM25(), data, tmp_path / "results", TaskOptions(quiet=True))["metrics"]
    export_task(built, "MSMARCO", "mteb", tmp_path / "out", quiet=True)
    check_equal(by_mteb(BM25(), mteb_task(tmp_path / "out", "MSMARCO")), metrics)
    assert metrics["Recall@5"] > 0.3


def test_an_image_task_is_refused_to_a_retriever_of_texts(exported: Path, by_mteb: Any) -> None:
    task = mteb_task(exported / "mteb", "LLaVA")
    with pytest.raises(M2KRError, match=r"M2KRLLaVA asks with images and bm25 reads only text\. Pass ignore_images"):
        by_mteb(BM25(), task)


def test_an_export_for_mteb_is_what_the_benchmark_holds(
    awkward: Path, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    data = load_task("LLaVA", awkward, images=pictures)
    tables = {
        name: load_dataset(str(exported / "mteb"), f"LLaVA-{name}", split="test", cache_dir=str(tmp_path))
        for name in ("corpus", "queries", "qrels")
    }
    assert tables["corpus"].column_names == ["id", "text"]
    assert list(tables["corpus"]["text"]) == data.passages["passage_content"].to_list()
    assert list(tables["queries"]["id"]) == data.queries["question_id"].to_list()
    assert list(tables["queries"]["text"]) == data.query_texts(instructions=True)
    assert list(tables["queries"]["question"]) == data.query_texts(instructions=False)
    assert isinstance(tables["queries"].features["image"], ImageFeature)
    qrels: dict[str, dict[str, int]] = {}
    for row in tables["qrels"]:
        qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = row["score"]
    assert qrels == judged(data)


def test_packed_images_are_exported(built: Path, world: Path, tmp_path: Path) -> None:
    for config in ("LLaVA_data", "LLaVA_passages"):
        shutil.copytree(built / config, tmp_path / "data" / config)
    pack_task(tmp_path / "data", get_task("LLaVA"), parse_roots([str(world)]), out=tmp_path / "data", quiet=True)
    packed = export_task(tmp_path / "data", "LLaVA", "mteb", tmp_path / "packed", quiet=True)
    loose = export_task(
        tmp_path / "data", "LLaVA", "mteb", tmp_path / "loose", images=parse_roots([str(world)]), quiet=True
    )
    assert tree(packed) == tree(loose)


def test_large_tables_are_cut_into_shards(
    built: Path, world: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = parse_roots([str(world)])
    whole = export_task(built, "LLaVA", "mteb", tmp_path / "whole", images=roots, quiet=True)
    monkeypatch.setattr(files, "GROUP_BYTES", 5_000)
    monkeypatch.setattr(files, "SHARD_BYTES", 20_000)
    cut = export_task(built, "LLaVA", "mteb", tmp_path / "cut", images=roots, quiet=True)
    assert len(list(cut.glob("queries-*.parquet"))) > 2
    assert pl.read_parquet(cut / "queries-*.parquet").equals(pl.read_parquet(whole / "queries-*.parquet"))


def test_a_task_that_was_not_exported_is_said(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="has no OKVQA; it has LLaVA"):
        mteb_task(exported / "mteb", "OKVQA")
    with pytest.raises(M2KRError, match="holds no export"):
        mteb_task(tmp_path, "OKVQA")


def test_without_mteb_its_install_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(by, "import_module", gone)
    for call in (lambda: mteb_task(exported / "mteb", "LLaVA"), lambda: search_model(BM25())):
        with pytest.raises(M2KRError, match=r"cannot be imported .*python -m pip install 'mteb>="):
            call()


# --- result files for mteb ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for task, split in (("OKVQA", "test"), ("OKVQA", "valid"), ("MSMARCO", "test")):
        data = load_task(task, built, split)
        evaluate_task(BM25(), data, folder / "bm25", TaskOptions(quiet=True, ignore_images=True))
    evaluate_task(
        BM25(), load_task("LLaVA", built, limit=3), folder / "bm25", TaskOptions(quiet=True, ignore_images=True)
    )
    return folder


def test_results_load_in_mteb(results: Path, tmp_path: Path) -> None:
    mteb = pytest.importorskip("mteb", reason="mteb reads the result files; pip install mteb")
    paths = export_results(results, tmp_path, quiet=True)
    assert sorted(path.name for path in paths) == ["M2KRMSMARCO.json", "M2KROKVQA.json"]
    assert {path.parent.parent.name for path in paths} == {"m2kr__bm25"}
    for path in paths:
        task = path.stem.removeprefix("M2KR")
        loaded = mteb.TaskResult.from_disk(path)
        ours = read_result(results / "bm25" / f"{task}.json")
        assert loaded.task_name == path.stem
        assert loaded.dataset_revision == ours["dataset"]
        assert set(loaded.scores) == ({"test", "valid"} if task == "OKVQA" else {"test"})
        (values,) = loaded.scores["test"]
        assert values["hf_subset"] == task
        assert values["languages"] == ["eng-Latn"]
        assert values["main_score"] == values["hit_rate_at_5"] == ours["metrics"]["Recall@5"]
        assert values["recall_at_10"] == ours["metrics"]["recall_fraction@10"]
        assert values["ignored_inputs"] == ours["ignored_inputs"]
        assert values["synthetic"] is True
        assert loaded.get_score(splits=["test"]) == ours["metrics"]["Recall@5"]
    assert "pseudo_recall_at_5" in task_result([read_result(results / "bm25" / "OKVQA.json")])["scores"]["test"][0]


def test_results_of_a_few_queries_are_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(results), "--to", "mteb-results", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert "1 results of a few queries (--limit, --nano) are left out" in printed.err
    (tmp_path / "few" / "bm25").mkdir(parents=True)
    shutil.copy(results / "bm25" / "LLaVA.json", tmp_path / "few" / "bm25")
    nano = {**read_result(results / "bm25" / "OKVQA.json"), "nano": True, "seed": 0}
    (tmp_path / "few" / "bm25" / "OKVQA.json").write_text(json.dumps(nano))
    with pytest.raises(M2KRError, match="holds only results of a few queries"):
        export_results(tmp_path / "few", tmp_path / "out")


def test_results_that_would_overwrite_each_other_are_refused(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "twice")
    shutil.copytree(results / "bm25", tmp_path / "twice" / "again")
    with pytest.raises(M2KRError, match="bm25 on MSMARCO stands twice"):
        export_results(tmp_path / "twice", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_option_without_meaning_for_results_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_command(main, [str(results), "--to", "mteb-results", "--out", str(tmp_path / "o"), "--tasks", "OKVQA"]) == 2
    )
    assert "--tasks says nothing about result files" in capsys.readouterr().err


def test_the_stand_in_changes_no_score(awkward: Path) -> None:
    data = load_task("LLaVA", awkward)
    run = Run.from_dict({query: dict.fromkeys(data.passages["passage_id"], 1.0) for query in data.qrels})
    qrels = [
        ir_measures.Qrel(query, name, relevance)
        for query, names in judged(data).items()
        for name, relevance in names.items()
    ]
    docs = [
        ir_measures.ScoredDoc(query, name, float(value))
        for query, ids, values in zip(run.query_ids, run.passage_ids, run.scores, strict=True)
        for name, value in zip(ids, values, strict=True)
    ]
    found = ir_measures.calc_aggregate([ir_measures.Success @ 20], qrels, docs)[ir_measures.Success @ 20]
    assert found == pytest.approx(score(run, data.qrels)["Recall@20"])
