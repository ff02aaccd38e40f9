"""`leaderboard.published`: the published figures and their sources."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from leaderboard.published import ANSWERING, BLOCKS, RETRIEVAL, read_published
from m2kr.errors import M2KRError

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec" / "published_results.csv"
WITH_NOTES = pytest.mark.skipif(not SPEC.is_file(), reason="the notes on published figures are not beside the checkout")


def notes() -> list[dict[str, str]]:
    with SPEC.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figure(model: str, task: str, metric: str, block: str) -> dict[str, object]:
    frame = read_published()
    rows = frame.query("model == @model and task == @task and metric == @metric and block == @block").to_dict("records")
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("model", "task", "metric", "value"),
    [
        ("PreFLMR_ViT-G", "WIT", "Recall@10", 61.9),
        ("PreFLMR_ViT-L", "OKVQA", "PRecall@5", 69.0),
        ("PreFLMR_ViT-B", "Infoseek", "Recall@5", 26.0),
    ],
)
def test_official_figures_have_their_source(model, task, metric, value):
    found = figure(model, task, metric, "official")
    assert found["value"] == value
    assert found["source"] == "LinWeizheDragon/FLMR@be4b748 README.md"
    assert found["ranked"]


def test_the_paper_era_is_a_block_of_its_own():
    assert figure("PreFLMR ViT-G (paper)", "WIT", "Recall@10", "paper-era")["value"] == 61.5
    frame = read_published()
    blocks = frame.groupby("source")["block"].nunique()
    assert blocks["LinWeizheDragon/FLMR@be4b748 docs/MODEL_ZOO.md"] == 1
    assert not set(frame.loc[frame["block"] == "paper-era", "model"]) & set(
        frame.loc[frame["block"] == "official", "model"]
    )


def test_figures_read_off_a_plot_are_marked_and_not_ranked():
    frame = read_published()
    digitised = frame[frame["status"] == "digitised"]
    assert len(digitised) == 11
    assert not digitised["ranked"].any()
    assert digitised["caveat"].str.contains("read off").all()


def test_every_figure_names_document_and_place_and_statuses_are_counted():
    figures, answers = read_published(), read_published(ANSWERING)
    assert figures["status"].value_counts().to_dict() == {"verified": 172, "superseded": 24, "digitised": 11}
    assert answers["status"].value_counts().to_dict() == {"copy": 15, "second-hand": 7}
    document = r"\w[\w-]+/[\w-]+@[0-9a-f]{7} [\w/.-]+\.(md|jpg|json)|github\.com/[\w-]+/[\w-]+/issues/\d+"
    assert figures["source"].str.fullmatch(document).all()
    places = (
        r"(first |second )?table of .+|axis [\w-]+|(description|(user|author)'s comment), 20\d\d-\d\d-\d\d|n_with_gt.+"
    )
    assert figures["place"].str.fullmatch(places).all()
    assert set(answers["source"] + ", " + answers["place"]) == {"MMKB-RAG, Table 6"}


def test_superseded_figures_are_those_of_the_first_list_and_none_is_ranked():
    frame = read_published()
    replaced = frame[frame["status"] == "superseded"]
    assert set(replaced["block"]) == {"superseded"} == set(frame.loc[frame["block"] == "superseded", "status"])
    assert not replaced["ranked"].any()
    tasks = ["WIT", "LLaVA", "OVEN", "KVQA", "IGLUE", "Infoseek", "EVQA", "OKVQA"]
    found = {size: mine.set_index("task")["value"] for size, mine in replaced.groupby(replaced["model"].str[12])}
    assert {size: mine[tasks].to_list() for size, mine in found.items()} == {
        "B": [34.2, 50.9, 46.1, 28.9, 60.5, 42.5, 32.7, 46.5],
        "L": [49.6, 51.2, 54.8, 40.5, 69.5, 48.7, 45.0, 50.9],
        "G": [49.5, 51.8, 59.6, 38.7, 69.3, 50.9, 42.4, 52.1],
    }


def test_chinese_tasks_are_a_block_of_their_own():
    frame = read_published()
    chinese = frame[frame["block"] == "m2kr-cn"]
    assert not chinese["ranked"].any()
    assert "512 queries" in BLOCKS["m2kr-cn"].note
    assert figure("PreFLMR_ViT-L_ENCN", "WIT", "Recall@10", "m2kr-cn")["value"] == 83.4
    assert figure("PreFLMR_ViT-L_ENCN", "WIT", "Recall@10", "encn")["value"] == 60.8


def test_only_blocks_measured_alike_are_ranked():
    frame = read_published()
    assert set(frame.loc[frame["ranked"], "block"]) == {"official", "paper-era", "ret-m2kr"}
    assert set(frame["block"]) == set(BLOCKS)


@WITH_NOTES
def test_every_figure_is_one_of_the_notes():
    known = set()
    for row in notes():
        if "do not use" not in row["note"]:
            metric = row["metric"].replace("R@", "Recall@")
            known.add((row["task"].replace("E-VQA", "EVQA"), metric, float(row["value"])))
    frame = read_published()
    chinese = frame["block"] == "m2kr-cn"
    named = frame.assign(task=frame["task"].where(~chinese, frame["task"] + "_CN"))[frame["status"] != "superseded"]
    assert set(named[["task", "metric", "value"]].itertuples(index=False, name=None)) <= known
    assert chinese.sum() == sum("_CN" in row["task"] for row in notes()) == 16
    official = [row for row in notes() if row["source"].endswith("FLMR@be4b748 README.md") and "_CN" not in row["task"]]
    official = [row for row in official if "fine-tuned" not in row["model"]]
    assert len(official) == (frame["block"] == "official").sum() == 36


@WITH_NOTES
def test_nothing_the_notes_warn_of_is_there():
    bad = [row for row in notes() if "do not use" in row["note"] or "NOT confirmed" in row["note"]]
    assert len(bad) > 5
    frame = read_published()
    there = set(zip(frame["model"], frame["task"], frame["value"], strict=True))
    assert not there & {(row["model"], row["task"].replace("E-VQA", "EVQA"), float(row["value"])) for row in bad}
    assert not frame["model"].str.contains("LamRA|V-Retrver|MIRe|stale|buggy").any()


def test_published_answers_say_how_they_are_known():
    frame = read_published(ANSWERING)
    assert not frame["ranked"].any()
    theirs = frame[frame["reader"] == "RA-VQAv2"]
    assert set(theirs["status"]) == {"second-hand"}
    picked = theirs.set_index(["passages", "task"])
    assert picked.loc[("PreFLMR", "Infoseek"), "value"] == 30.65
    assert "conflict" in picked.loc[("PreFLMR", "Infoseek"), "caveat"]


@WITH_NOTES
def test_every_published_answer_is_one_of_the_notes_and_none_is_left_out():
    metrics = {"VQA score (RAG)": "VQA", "accuracy (RAG)": "accuracy", "BEM (RAG)": "BEM"}
    rows = [row for row in notes() if row["source"].startswith("MMKB-RAG")]
    known = {
        (row["task"].replace("E-VQA", "EVQA"), metrics[row["metric"]], float(row["value"]), row["note"].split()[0])
        for row in rows
    }
    frame = read_published(ANSWERING).replace({"status": {"second-hand": "SECOND-HAND", "copy": "VERIFIED"}})
    assert set(frame[["task", "metric", "value", "status"]].itertuples(index=False, name=None)) == known
    assert len(frame) == len(rows)


GOOD = {
    "published.csv": ("m", "OKVQA", "Recall@5", "1.0", "official", "s", "p", "verified", "yes", "", ""),
    "published_answers.csv": ("r", "none", "OKVQA", "VQA", "1.0", "s", "p", "copy", ""),
}


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (RETRIEVAL, {"task": "OKVQB"}, "task is 'OKVQB'"),
        (RETRIEVAL, {"value": "much"}, "'much', which is no percentage"),
        (RETRIEVAL, {"value": "120"}, "'120', which is no percentage"),
        (RETRIEVAL, {"source": " "}, "no source"),
        (RETRIEVAL, {"place": ""}, "no place"),
        (ANSWERING, {"place": " "}, "no place"),
        (RETRIEVAL, {"status": "seen"}, "status is 'seen'"),
        (RETRIEVAL, {"status": "superseded"}, "ranked, and superseded"),
        (RETRIEVAL, {"status": "digitised"}, "ranked, and digitised"),
        (RETRIEVAL, {"block": "mine"}, "block is 'mine'"),
        (RETRIEVAL, {"ranked": "maybe"}, "ranked is 'maybe'"),
        (RETRIEVAL, {"metric": "accuracy"}, "'accuracy' is no measure of OKVQA"),
        (ANSWERING, {"task": "WIT"}, "task is 'WIT'"),
        (ANSWERING, {"metric": "EM"}, "'EM' is no measure of OKVQA"),
        (ANSWERING, {"value": "nan"}, "'nan', which is no percentage"),
        (ANSWERING, {"status": "verified"}, "status is 'verified'"),
        (ANSWERING, {"passages": ""}, "no passages"),
    ],
)
def test_a_bad_row_is_named(tmp_path, file, change, says):
    row = {**dict(zip(file.columns, GOOD[file.path.name], strict=True)), **change}
    path = tmp_path / "published.csv"
    path.write_text(f"{','.join(file.columns)}\n{','.join(row.values())}\n", encoding="utf-8")
    with pytest.raises(M2KRError, match=says) as raised:
        read_published(replace(file, path=path))
    assert f"{path}, line 2" in str(raised.value)


@pytest.mark.parametrize("file", [RETRIEVAL, ANSWERING])
def test_a_figure_stands_once(tmp_path, file):
    lines = file.path.read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "published.csv"
    path.write_text("".join([*lines, lines[1]]), encoding="utf-8")
    with pytest.raises(M2KRError, match=f"line {len(lines) + 1} .*twice"):
        read_published(replace(file, path=path))


def test_a_lacking_column_is_named(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("model,task\n", encoding="utf-8")
    with pytest.raises(M2KRError, match="lacks the column metric, value, block"):
        read_published(replace(RETRIEVAL, path=path))
