"""`leaderboard.site`: the pages, and what must not get into them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from baselines.bm25 import BM25
from leaderboard import plots
from leaderboard.__main__ import main
from leaderboard.explorer import chosen_rows
from leaderboard.figures import ANSWER_FIELDS, FIELDS
from leaderboard.measures import COMPARED
from leaderboard.published import ANSWERING, RETRIEVAL, read_published
from leaderboard.significance import as_json, pairwise
from leaderboard.site import CONTENT_SECURITY_POLICY, build
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from tests.made_results import change

SCRIPT = "<script>alert(1)</script>"
NASTY = f'{SCRIPT}"><img src=x onerror=alert(1)>{{{{7*7}}}}'
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """What stands in a page: tags with their attributes, texts, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture
def site(results, tmp_path):
    """Build a site of the result files that were made, and return its folder."""

    def made(**options) -> Path:
        build(results, tmp_path / "site", quiet=True, **options)
        return tmp_path / "site"

    return made


@pytest.fixture(scope="module")
def real(evaluated, built, world, tmp_path_factory):
    """The site of real runs on the made-up world, with pictures."""
    out = tmp_path_factory.mktemp("real") / "site"
    arguments = ["--results", str(evaluated), "--out", str(out), "--data", str(built), "--images", str(world)]
    assert main([*arguments, "--quiet"]) == 0
    return out


def check_safety(found: dict[str, Page]) -> None:
    for name, page in found.items():
        assert not page.open, name
        policies = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policies == [CONTENT_SECURITY_POLICY], name
        for tag, attributes in page.tags:
            assert tag not in ("style", "iframe", "object", "embed", "base"), name
            assert not [key for key in attributes if key == "style" or key.startswith("on")], (name, tag)
            if tag == "script":
                assert attributes.get("type") == "application/json" or "static/" in attributes["src"], name
            for key in ("src", "href", "action"):
                assert not (attributes.get(key) or "").startswith(("http", "//", "/", "javascript", "data")), name


def checked(site: Path) -> dict[str, Page]:
    """Return the pages of a site, which are safe, and whose links lead somewhere."""
    found = pages(site)
    check_safety(found)
    check_links(site, found)
    return found


def check_links(site: Path, found: dict[str, Page]) -> None:
    for name, page in found.items():
        ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
        assert len(ids) == len(set(ids)), name
        for _, attributes in page.tags:
            target = attributes.get("href") or attributes.get("src")
            if target and target.startswith("#"):
                assert target[1:] in ids, (name, target)
            elif target:
                assert ((site / name).parent / target).is_file(), (name, target)
            if attributes.get("popovertarget"):
                assert attributes["popovertarget"] in ids, name


@pytest.mark.usefixtures("drawn_once")
def test_a_site_of_published_figures_alone(site):
    found = checked(site())
    assert set(found) == {
        *("index.html", "radar.html", "parameters.html", "storage.html", "answers.html", "runs/index.html"),
    }
    text = " ".join(found["index.html"].texts)
    assert "PreFLMR_" in text
    assert "Published: figures of the paper's time" in text


@pytest.mark.usefixtures("undrawn")
def test_published_figures_stand_with_their_source(site):
    folder = site()
    table = pd.read_csv(folder / "leaderboard.csv")
    picked = table[table["group"] == "official"].set_index(["model", "task", "metric"])
    for key, value in (
        (("PreFLMR_ViT-G", "WIT", "Recall@10"), 61.9),
        (("PreFLMR_ViT-L", "OKVQA", "PRecall@5"), 69.0),
        (("PreFLMR_ViT-B", "Infoseek", "Recall@5"), 26.0),
    ):
        assert picked.loc[key, "value"] == value
        assert picked.loc[key, "source"] == "LinWeizheDragon/FLMR@be4b748 README.md"
    titles = [attributes.get("title") or "" for _, attributes in Page(folder / "index.html").tags]
    assert any(title.startswith("WIT R@10 61.90 %; seen in the source; LinWeizheDragon/FLMR") for title in titles)


@pytest.mark.usefixtures("drawn_once")
def test_names_that_are_markup_stay_text(make, site):
    for task in COMPARED:
        make("nasty", task=task.key, model=NASTY, hardware=SCRIPT, model_settings={SCRIPT: NASTY, "parameters": 10**8})
    folder = site()
    found = checked(folder)
    assert SCRIPT in "".join(found["index.html"].texts)
    assert NASTY in "".join(found["runs/nasty/index.html"].texts)
    for name in ("index.html", "radar.html", "parameters.html", "storage.html"):
        assert SCRIPT not in (folder / name).read_text(encoding="utf-8")
    figures = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))["figures"]
    assert any(figure["model"] == NASTY for figure in figures)


@pytest.mark.usefixtures("undrawn")
def test_readers_and_settings_that_are_markup_stay_text(make_answer, site):
    make_answer(reader=NASTY, retriever=NASTY, hardware=NASTY, reader_settings={SCRIPT: NASTY, "prompt": [NASTY]})
    judge = {"checkpoint": NASTY, SCRIPT: NASTY}
    make_answer(task="EVQA", dataset=NASTY, commit=NASTY, metrics={"EM": 0.1, NASTY: 0.2, "BEM": 0.3}, bem=judge)
    folder = site()
    found = checked(folder)
    page = (folder / "answers.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") > 8
    assert SCRIPT not in page
    assert "<img" not in page
    assert NASTY in "".join(found["answers.html"].texts)
    answers = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))["answers"]
    assert any(answer["reader"] == NASTY for answer in answers)


@pytest.mark.usefixtures("undrawn")
def test_a_passage_that_is_markup_stays_text(built, tmp_path):
    data = tmp_path / "m2kr"
    for config in ("OKVQA_data", "OKVQA_passages"):
        shutil.copytree(built / config, data / config)
    for file in (data / "OKVQA_passages").glob("test_passages-*.parquet"):
        frame = pl.read_parquet(file)
        text = pl.lit(f"{SCRIPT}<b>") + pl.col("passage_content")
        frame.with_columns(text.alias("passage_content")).write_parquet(file)
    evaluate_task(
        BM25(), load_task("OKVQA", data), tmp_path / "results" / "bm25", TaskOptions(ignore_images=True, quiet=True)
    )
    build(tmp_path / "results", tmp_path / "site", data=str(data), quiet=True)
    found = pages(tmp_path / "site")
    check_safety(found)
    assert f"{SCRIPT}<b>" in "".join(found["runs/bm25/queries-OKVQA.html"].texts)
    assert SCRIPT not in (tmp_path / "site/runs/bm25/queries-OKVQA.html").read_text(encoding="utf-8")


def test_real_runs_are_shown_and_compared(real):
    found = checked(real)
    queries = found["runs/bm25/queries-OKVQA.html"]
    states = [attributes["data-state"] for tag, attributes in queries.tags if attributes.get("class") == "query"]
    assert states == sorted(states)  # "failed" before "found"
    assert {"failed", "found"} == set(states)
    assert "mark" in [tag for tag, _ in queries.tags]
    pictures = [attributes["src"] for tag, attributes in queries.tags if tag == "img"]
    assert pictures
    assert all(picture.startswith("../../pictures/OKVQA/") for picture in pictures)
    index = Page(real / "index.html")
    compared = json.loads(next(text for text in index.texts if text.startswith('{"')))
    assert {tuple(sorted(pairs["models"])) for pairs in compared.values()} == {("bm25", "first-words")}


def test_the_shown_ranks_and_scores_are_those_of_the_run(real, evaluated):
    from m2kr.results.run import Run

    run = Run.read_trec(evaluated / "bm25" / "OKVQA.run.trec.gz")
    text = (real / "runs/bm25/queries-OKVQA.html").read_text(encoding="utf-8")
    for query, passages, scores in zip(run.query_ids, run.passage_ids, run.scores, strict=True):
        block = text.partition(f"<dt>Query</dt><dd><code>{query}</code>")[2].partition("</details>")[0]
        if block:
            found = block.partition("<h3>Found</h3>")[2]
            assert f"<code>{passages[0]}</code>" in found
            assert f'<b>1</b> <span class="score">{scores[0]:.4g}</span>' in found


def test_failures_are_those_the_measure_counts(real, evaluated):
    result = json.loads((evaluated / "bm25" / "OKVQA.json").read_text(encoding="utf-8"))
    failed = round(result["queries"] * (1 - result["metrics"]["Recall@5"]))
    shown = " ".join(Page(real / "runs/bm25/queries-OKVQA.html").texts)
    assert f"{failed} of {result['queries']} queries fail" in shown


@pytest.mark.parametrize(
    ("name", "metrics", "says"),
    [
        ("bm25/OKVQA.json", {"Recall@1": 1.0, "Recall@5": 1.0, "Recall@10": 1.0}, "Recall@5 is 1.000000 in the file"),
        ("no-retrieval/answers/seeker/OKVQA.json", {"VQA": 0.75}, "VQA is 0.75 in the file"),
    ],
)
def test_a_forged_figure_stops_the_site(submitted, built, tmp_path, capsys, name, metrics, says):
    change(submitted / name, metrics=metrics)
    arguments = ["--results", str(submitted), "--out", str(tmp_path / "site"), "--data", str(built)]
    assert run_command(main, [*arguments, "--quiet"]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
    assert not list(tmp_path.glob(".site*"))


@pytest.mark.usefixtures("undrawn")
def test_a_foreign_dataset_is_marked_and_not_looked_into(submitted, built, tmp_path):
    path = submitted / "first-words/OKVQA.json"
    change(path, dataset="feedfacefeedface")
    made = build(submitted, tmp_path / "site", data=str(built), quiet=True)
    assert made.absent == {path: "it was made with other data"}
    table = pd.read_csv(tmp_path / "site/leaderboard.csv")
    foreign = table[table["dataset"] == "feedfacefeedface"]
    assert set(foreign["marks"]) == {"made-up data; other data; without images"}
    assert not set(foreign["group"]) & set(table.loc[table["dataset"] != "feedfacefeedface", "group"])
    assert not (tmp_path / "site/runs/first-words/queries-OKVQA.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_result_without_its_run_says_so_and_one_with_another_run_is_refused(submitted, built, tmp_path):
    run = submitted / "bm25/OKVQA.run.trec.gz"
    run.unlink()
    build(submitted, tmp_path / "site", data=str(built), quiet=True)
    assert "Queries are not shown: its run is not beside it." in Page(tmp_path / "site/runs/bm25/index.html").texts
    shutil.copy(submitted / "first-words/OKVQA.run.trec.gz", run)
    with pytest.raises(M2KRError, match="is not the run"):
        build(submitted, tmp_path / "site", data=str(built), quiet=True)


@pytest.mark.usefixtures("undrawn")
def test_pictures_that_are_not_at_hand_are_said_to_be_missing(evaluated, built, tmp_path):
    build(evaluated, tmp_path / "site", data=str(built), shown=4, quiet=True)
    page = Page(tmp_path / "site/runs/bm25/queries-OKVQA.html")
    assert page.texts.count("Picture not at hand") == 4
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Picture not at hand" not in Page(tmp_path / "site/runs/bm25/queries-MSMARCO.html").texts


def test_queries_are_picked_alike_for_all_models():
    failed = np.zeros(100, dtype=bool)
    failed[:80] = True
    ids = [f"q{number}" for number in range(100)]
    rows = chosen_rows(ids, failed, 40)
    assert len(rows) == len(set(rows)) == 40
    assert failed[rows].sum() == 30
    few = failed.copy()
    few[5:80] = False
    assert few[chosen_rows(ids, few, 40)].sum() == 5
    assert chosen_rows(ids, np.ones(100, dtype=bool), 40)[:30] == chosen_rows(ids, np.ones(100, dtype=bool), 30)


@pytest.mark.usefixtures("undrawn")
def test_a_missing_task_is_a_dash(make, site):
    make()
    row = (site() / "index.html").read_text(encoding="utf-8").partition('<tr data-model="my-model"')[2]
    row = row.partition("</tr>")[0]
    assert row.count("no figure") == 10  # of twelve columns, OKVQA's two are there
    assert "43.0" in row


@pytest.mark.usefixtures("undrawn")
def test_the_figures_are_written_as_data(make, site):
    make()
    folder = site()
    table = pd.read_csv(folder / "leaderboard.csv")
    written = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert list(table.columns) == list(FIELDS)
    assert len(written["figures"]) == len(table) > 160
    assert {figure["group"] for figure in written["figures"]} <= set(written["groups"])
    model = written["models"]["PreFLMR_ViT-L"]
    assert (model["trained"]["IGLUE"], model["trained"]["CC"], model["dimension"]) == ("no", "yes", 128)
    assert written["models"]["my-model"]["licence"] == "unknown"


@pytest.mark.usefixtures("drawn_once")
def test_two_hundred_results_are_quick_and_light(make, site, monkeypatch):
    drawn = plots.curve([("Recall@K", [(1, 20, 18, 22), (5, 40, 38, 42)])], title="WIT", name="curve")
    monkeypatch.setattr(plots, "curve", lambda *_, **__: drawn)  # 200 of these, at 30 ms each, tell nothing more
    for number in range(50):
        for task in ("WIT", "OKVQA", "EVQA", "MSMARCO"):
            make(f"model-{number}", task=task, model=f"some-group/some-model-of-a-long-name-{number}")
    start = time.process_time()  # other tests may run at the same time
    folder = site()
    assert time.process_time() - start < 15
    assert len(list(folder.glob("runs/*/index.html"))) == 50
    linked = sum(file.stat().st_size for file in (folder / "static").iterdir())
    for page in folder.rglob("*.html"):
        assert page.stat().st_size + linked < 2_000_000


def test_fifty_compared_models_are_light():
    rng = np.random.default_rng(0)
    hits = pairwise({f"some-group--some-model-{n}": (rng.random(500) < n / 100).astype(float) for n in range(50)})
    text = json.dumps(as_json({(f"{n:016x}", "Recall@5"): hits for n in range(12)}), separators=(",", ":"))
    assert len(text) < 300_000


@pytest.mark.usefixtures("drawn_once")  # that equal figures give equal drawings, test_plots looks at
def test_equal_results_give_equal_sites(make, site, tmp_path):
    make()
    folder = site()
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folder = site()
    assert first == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("undrawn")
def test_answers_are_a_page_and_data_of_their_own(answered, built, tmp_path):
    site = tmp_path / "site"
    build(answered, site, data=str(built), quiet=True)
    found = checked(site)
    page = found["answers.html"]
    text = " ".join(" ".join(page.texts).split())
    assert "Runs: made-up data, without images" in text
    assert "second-hand: quoted by another work; quoted there for PreFLMR (ACL 2024), Table 7" in text
    assert [a["id"] for tag, a in page.tags if tag == "h2"] == ["OKVQA", "Infoseek", "EVQA"]
    written = json.loads((site / "leaderboard.json").read_text(encoding="utf-8"))
    table = pd.read_csv(site / "answers.csv")
    assert list(table.columns) == list(ANSWER_FIELDS)
    assert len(written["answers"]) == len(table) == 28
    assert not {"VQA", "EM", "BEM", "accuracy"} & {figure["metric"] for figure in written["figures"]}
    for path in answered.glob("*/answers/*/*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        value = 100 * result["metrics"][result["headline"][0]]
        low, high = (100 * end for end in result["intervals"][result["headline"][0]])
        combine = result["combine"] or "–"
        assert f"{result['k'] or '–'} {combine} {result['queries']} {value:.1f} {low:.1f}–{high:.1f}" in text


@pytest.mark.usefixtures("undrawn")
def test_without_answers_there_is_no_page_and_no_link(site, monkeypatch):
    none_of = {ANSWERING.path: 0}
    read = lambda file=RETRIEVAL: read_published(file).iloc[: none_of.get(file.path)]  # noqa: E731
    monkeypatch.setattr("leaderboard.site.read_published", read)
    folder = site()
    assert not (folder / "answers.html").exists()
    assert not (folder / "answers.csv").exists()
    assert json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))["answers"] == []
    check_links(folder, pages(folder))
    assert "answers." not in (folder / "index.html").read_text(encoding="utf-8")


def test_a_folder_of_something_else_is_left_alone(make, tmp_path):
    make()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(M2KRError, match="no site of the leaderboard"):
        build(tmp_path / "results", tmp_path / "site", quiet=True)
    assert (tmp_path / "site" / "thesis.txt").is_file()


def test_help_names_the_commands():
    said = subprocess.run([sys.executable, "-m", "leaderboard", "--help"], capture_output=True, text=True, check=True)
    assert "verify" in said.stdout
    assert "check" in said.stdout
