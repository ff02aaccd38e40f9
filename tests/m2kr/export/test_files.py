"""The files of an export: what other tools read in them is what the benchmark holds."""

import gzip
import json
import shutil
import string

import ir_measures
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export.task import export_task
from m2kr.metrics import score
from m2kr.results.run import Run
from m2kr.score import score_run

# --- TREC -----------------------------------------------------------------------------------------------------------


def test_trec_qrels_and_a_run_are_scored_by_ir_measures_as_here(awkward, exported, tmp_path):
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


def test_trec_ids_are_those_of_runs(awkward, exported, tmp_path):
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


def test_a_run_of_trec_files_made_elsewhere_is_scored_under_the_ids_of_the_benchmark(awkward, exported, tmp_path):
    data = load_task("LLaVA", awkward)
    qrels = [line.split(" ") for line in (exported / "trec" / "LLaVA" / "qrels.txt").read_text("utf-8").splitlines()]
    lines = [f"{row[0]} Q0 {row[2]} 1 1.0 x" for row in qrels] + ["q%20100%25%20d Q0 p%20100%25%20d 2 0.5 x"]
    (tmp_path / "run.trec").write_text("\n".join(lines), encoding="utf-8")
    result = score_run(tmp_path / "run.trec", data, "x", tmp_path, quiet=True)
    assert result["metrics"]["recall_fraction@500"] == 1 - result["queries_without_positive"] / data.queries.height
    run = Run.read_trec(tmp_path / "LLaVA.run.trec.gz")
    assert run.passage_ids[run.query_ids.index("q 100% d")][-1] == "p 100% d"


def test_trec_texts_stay_on_their_line(awkward, exported):
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


def test_the_stand_in_changes_no_score(awkward, judged):
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


# --- BEIR -----------------------------------------------------------------------------------------------------------


def test_beir_reads_what_the_benchmark_holds(awkward, exported, judged):
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


def test_beir_files_have_the_columns_of_the_format(exported):
    folder = exported / "beir" / "LLaVA"
    assert (folder / "qrels" / "test.tsv").read_text("utf-8").split("\n")[0] == "query-id\tcorpus-id\tscore"
    for name, keys in (("corpus.jsonl", ["_id", "title", "text"]), ("queries.jsonl", ["_id", "text"])):
        lines = (folder / name).read_text("utf-8").split("\n")
        assert lines.pop() == ""
        assert all(list(json.loads(line)) == keys for line in lines)


def test_an_id_that_beir_cannot_hold_is_named(awkward, tmp_path):
    shutil.copytree(awkward, tmp_path / "data")
    path = next((tmp_path / "data" / "LLaVA_data").iterdir())
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("question_id", ["a\rb", *frame["question_id"][1:]])).write_parquet(path)
    with pytest.raises(M2KRError, match=r"the id 'a\\rb' of LLaVA holds a line break"):
        export_task(tmp_path / "data", "LLaVA", "beir", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "LLaVA").exists()


@given(text=st.text(st.characters(exclude_categories=["Cs"])), name=st.text(string.printable, min_size=1))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_from_beir_files(text, name, tmp_path_factory):
    loader = pytest.importorskip("beir.datasets.data_loader", reason="beir reads the export; pip install beir")
    name = name.replace("\r", "").replace("\n", "")
    name = name if name.strip() else "x"
    folder = tmp_path_factory.mktemp("any")
    (folder / "MSMARCO_data").mkdir()
    (folder / "MSMARCO_passages").mkdir()
    row = {"question_id": name, "question": f"q{text}", "instruction": "", "img_path": None, "pos_item_ids": [name]}
    pl.DataFrame([row]).write_parquet(folder / "MSMARCO_data" / "test-00000-of-00001.parquet")
    pl.DataFrame({"passage_id": [name], "passage_content": [text]}).write_parquet(
        folder / "MSMARCO_passages" / "test_passages-00000-of-00001.parquet"
    )
    out = export_task(folder, "MSMARCO", "beir", folder / "out", instructions=False, quiet=True)
    corpus, queries, qrels = loader.GenericDataLoader(str(out)).load(split="test")
    assert corpus == {name: {"title": "", "text": text}}
    assert queries == {name: f"q{text}"}
    assert qrels == {name: {name: 1}}


# --- mteb -----------------------------------------------------------------------------------------------------------


def test_an_export_for_mteb_is_what_the_benchmark_holds(awkward, exported, pictures, tmp_path, judged):
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
