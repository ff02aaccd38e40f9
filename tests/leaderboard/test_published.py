"""`leaderboard.published`: the published figures and their sources."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from leaderboard.published import BLOCKS, COLUMNS, PUBLISHED, read_published
from m2kr.errors import M2KRError

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec" / "published_results.csv"


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


def test_only_blocks_measured_alike_are_ranked():
    frame = read_published()
    assert set(frame.loc[frame["ranked"], "block"]) == {"official", "paper-era", "ret-m2kr"}
    assert set(frame["block"]) == set(BLOCKS)


@pytest.mark.skipif(not SPEC.is_file(), reason="the notes on published figures are not beside the checkout")
def test_every_figure_is_one_of_the_notes():
    with SPEC.open(newline="", encoding="utf-8") as file:
        notes = list(csv.DictReader(file))
    names = {"EVQA": "E-VQA"}
    known = {
        (row["task"], row["metric"].replace("PR@", "PRecall@").replace("R@", "Recall@", 1), float(row["value"]))
        if not row["metric"].startswith("PR@")
        else (row["task"], row["metric"].replace("PR@", "PRecall@"), float(row["value"]))
        for row in notes
        if "do not use" not in row["note"]
    }
    frame = read_published()
    ours = {
        (names.get(task, task), metric, value)
        for task, metric, value in zip(frame["task"], frame["metric"], frame["value"], strict=True)
    }
    assert ours <= known
    official = [row for row in notes if row["source"].endswith("FLMR@be4b748 README.md") and "_CN" not in row["task"]]
    official = [row for row in official if "fine-tuned" not in row["model"]]
    assert len(official) == (frame["block"] == "official").sum() == 36


@pytest.mark.skipif(not SPEC.is_file(), reason="the notes on published figures are not beside the checkout")
def test_nothing_the_notes_warn_of_is_there():
    with SPEC.open(newline="", encoding="utf-8") as file:
        bad = [row for row in csv.DictReader(file) if "do not use" in row["note"] or "NOT confirmed" in row["note"]]
    assert len(bad) > 5
    frame = read_published()
    there = set(zip(frame["model"], frame["task"], frame["value"], strict=True))
    assert not there & {(row["model"], row["task"].replace("E-VQA", "EVQA"), float(row["value"])) for row in bad}
    assert not frame["model"].str.contains("LamRA|V-Retrver|MIRe|stale|buggy").any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "OKVQB"}, "task is 'OKVQB'"),
        ({"value": "much"}, "no percentage"),
        ({"value": "120"}, "no percentage"),
        ({"source": " "}, "no source"),
        ({"status": "seen"}, "status"),
        ({"block": "mine"}, "block"),
        ({"ranked": "maybe"}, "ranked"),
        ({"metric": "accuracy"}, "measure"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, says):
    row = dict(zip(COLUMNS, ("m", "OKVQA", "Recall@5", "1.0", "official", "s", "verified", "yes", "", ""), strict=True))
    path = tmp_path / "published.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join({**row, **change}.values()) + "\n", encoding="utf-8")
    with pytest.raises(M2KRError, match=says):
        read_published(path)


def test_a_figure_stands_once(tmp_path):
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "published.csv"
    path.write_text("".join([*lines, lines[1]]), encoding="utf-8")
    with pytest.raises(M2KRError, match="twice"):
        read_published(path)
