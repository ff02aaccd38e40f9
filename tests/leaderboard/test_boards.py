"""`leaderboard.boards`: ranks, means and boards."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.boards import COMPARED, FIELDS, MAIN, MEASURES, boards, long_table, short
from leaderboard.published import read_published
from leaderboard.records import read_records, usual_data, with_marks
from leaderboard.significance import pairwise


@pytest.fixture
def found(make, tmp_path):
    """Boards of the result files that were made, by key, and the long table."""

    def collect(pairs=None):
        records = read_records(tmp_path / "results")
        reference = usual_data(records)
        records = [with_marks(record, reference) for record in records]
        table = long_table(records, read_published())
        return {board.key: board for board in boards(records, table, pairs)}, table, records

    return collect


def shares(first):
    return {"Recall@1": first / 2, "Recall@5": first, "Recall@10": first, "PRecall@5": first}


def test_the_long_table_has_its_columns_and_types(make, found):
    make()
    _, table, _ = found()
    assert list(table.columns) == list(FIELDS)
    assert str(table["rank"].dtype) == "Int64"
    assert set(table["origin"]) == {"run", "published"}


def test_ranks_are_within_a_group(make, found):
    make("a", metrics=shares(0.4))
    make("b", metrics=shares(0.6))
    make("c", metrics=shares(0.6))
    make("d", metrics=shares(0.9), nano=True, seed=0)
    _, table, _ = found()
    own = table[(table["origin"] == "run") & (table["metric"] == "Recall@5")].set_index("slug")["rank"]
    assert own.to_dict() == {"a": 3, "b": 1, "c": 1, "d": 1}
    official = table[(table["group"] == "official") & (table["task"] == "WIT")].set_index("model")["rank"]
    assert official.to_dict() == {"PreFLMR_ViT-G": 1, "PreFLMR_ViT-L": 2, "PreFLMR_ViT-B": 3}


def test_a_foreign_dataset_is_marked_and_ranked_apart(make, found):
    make("a")
    make("b")
    make("c", dataset="foreign", metrics=shares(0.99))
    by_key, table, _ = found()
    assert [row.model for row in by_key["run"].rows] == ["my-model"] * 2
    assert {row.key for row in by_key["run-other-data"].rows} == {"c"}
    assert "other data" in by_key["run-other-data"].title
    assert table[table["slug"] == "c"]["marks"].unique().tolist() == ["other data"]
    assert all(cell.best for row in by_key["run"].rows for cell in row.cells if cell)


def test_no_mean_is_taken_over_missing_tasks(make, found):
    for task in COMPARED:
        make("whole", task=task.key, metrics={**shares(0.5), "Recall@10": 0.6})
        if task.key != "EVQA":
            make("lacking", task=task.key, metrics=shares(0.9))
    by_key, _, _ = found()
    whole, lacking = by_key["run"].rows
    assert whole.key == "whole"  # a row without a mean stands below, whatever its figures
    main = [0.6 if metric == "Recall@10" else 0.25 if metric == "Recall@1" else 0.5 for _, metric in MAIN]
    assert whole.mean == pytest.approx(100 * np.mean(main))
    assert lacking.mean is None
    assert [cell is None for cell in lacking.cells] == [task == "EVQA" for task, _ in MEASURES]


def test_rows_of_different_data_have_no_mean(make, found):
    for folder, dataset in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "three")):
        for task in COMPARED:
            make(folder, task=task.key, dataset=dataset, metrics={**shares(0.5), "Recall@10": 0.6})
    by_key, _, _ = found()
    assert all(row.mean is not None for row in by_key["run"].rows)
    apart = by_key["run-other-data"]
    assert [row.key for row in apart.rows] == ["c", "d"]
    assert not apart.has_mean
    assert not any(cell.best for row in apart.rows for cell in row.cells if cell)


def test_plain_runs_come_first_and_those_set_apart_below_the_official_figures(make, found):
    make("a")
    make("b", ignored_inputs=["image"])
    make("c", nano=True, seed=0, ignored_inputs=["image"])
    make("d", limited=True)
    by_key, _, _ = found()
    assert list(by_key)[:5] == ["run", "official", "run-limited", "run-no-images", "run-nano-no-images"]


def test_r_and_pr_are_columns_of_their_own(make, found):
    make(metrics={**shares(0.5), "PRecall@5": 0.7})
    by_key, _, _ = found()
    cells = dict(zip(MEASURES, by_key["run"].rows[0].cells, strict=True))
    assert (cells["OKVQA", "Recall@5"].value, cells["OKVQA", "PRecall@5"].value) == pytest.approx((50, 70))
    assert short("PRecall@5") == "PR@5"


def test_a_text_only_task_is_shown_with_those_without_images(make, found):
    make("a", ignored_inputs=["image"])
    make("a", task="MSMARCO")
    make("b", task="MSMARCO", metrics=shares(0.9))
    by_key, _, _ = found()
    assert {row.key for row in by_key["run"].rows} == {"a", "b"}
    (row,) = by_key["run-no-images"].rows
    cells = dict(zip(MEASURES, row.cells, strict=True))
    assert cells["MSMARCO", "Recall@5"] is not None
    assert cells["OKVQA", "Recall@5"] is not None


def test_published_blocks_are_boards_of_their_own(found, tmp_path):
    (tmp_path / "results").mkdir()
    by_key, _, _ = found()
    assert list(by_key) == ["official", "paper-era", "encn", "ret-m2kr", "fine-tuned", "reruns"]
    official = {row.model: row for row in by_key["official"].rows}
    assert official["PreFLMR_ViT-G"].mean == pytest.approx(
        np.mean([61.9, 71.8, 41.9, 78.3, 64.3, 72.6, 30.2, 39.2, 62.5])
    )
    assert not any(row.mean for row in by_key["paper-era"].rows)
    plot = next(row for row in by_key["paper-era"].rows if "ViT-H" in row.model)
    assert all(cell.digitised for cell in plot.cells if cell)
    assert not any(cell.best for cell in plot.cells if cell)
    assert not by_key["encn"].rows[0].ranked
    facts = dict(official["PreFLMR_ViT-L"].facts)
    assert facts["Source"] == "LinWeizheDragon/FLMR@be4b748 README.md"
    assert by_key["reruns"].items


def test_a_figure_as_good_as_the_best_is_marked(make, found):
    make("a", metrics=shares(0.5))
    make("b", metrics=shares(0.49))
    make("c", metrics=shares(0.1))
    _, _, records = found()
    rows = np.arange(1000)
    hits = {
        "a": (rows % 2 == 0) * 1.0,
        "b": ((rows % 2 == 0) & (rows >= 4) | (rows == 1)) * 1.0,
        "c": (rows % 10 == 0) * 1.0,
    }
    by_key, _, _ = found({(records[0].pool, "Recall@5"): pairwise(hits)})
    place = MEASURES.index(("OKVQA", "Recall@5"))
    assert {row.key: (row.cells[place].best, row.cells[place].tied) for row in by_key["run"].rows} == {
        "a": (True, False),
        "b": (False, True),
        "c": (False, False),
    }
