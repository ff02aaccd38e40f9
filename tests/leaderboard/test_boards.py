"""`leaderboard.boards`: which figures stand together, the best of them, and means."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.boards import answer_boards, run_boards
from leaderboard.figures import answer_figures, run_figures
from leaderboard.marks import usual_data
from leaderboard.measures import COMPARED, MAIN, MEASURES, short
from leaderboard.published import ANSWERING, read_published
from leaderboard.records import read_records
from leaderboard.significance import pairwise

NOTHING = read_published(ANSWERING).iloc[:0]


@pytest.fixture
def records(results):
    """Read the result files that were made, with their marks."""

    def read():
        found = read_records(results)
        reference = usual_data(record.result for kind in found for record in kind)
        return [[record.marked(reference) for record in kind] for kind in found]

    return read


@pytest.fixture
def boards(records):
    """Return the boards of retrieval, by key."""

    def made(pairs=None, hits=None):
        runs, _ = records()
        return {board.key: board for board in run_boards(runs, run_figures(runs, read_published()), pairs, hits)}

    return made


@pytest.fixture
def answers(records):
    """Return the boards of answering of each task."""

    def made(published=NOTHING):
        runs, answered = records()
        return answer_boards(answered, answer_figures(answered, published), runs)

    return made


def shares(first):
    return {"Recall@1": first / 2, "Recall@5": first, "Recall@10": first, "PRecall@5": first}


def whole_benchmark(make, folder, **changes):
    for task in COMPARED:
        make(folder, task=task.key, metrics={**shares(0.5), "Recall@10": 0.6}, **changes)


def test_a_foreign_dataset_is_marked_and_stands_apart(make, boards):
    make("a")
    make("b")
    make("c", dataset="foreign", metrics=shares(0.99))
    found = boards()
    assert [row.name for row in found["run"].rows] == ["my-model"] * 2
    assert {row.key for row in found["run-other-data"].rows} == {"c"}
    assert "other data" in found["run-other-data"].title
    assert all(cell.best for row in found["run"].rows for cell in row.cells if cell)


def test_no_mean_is_taken_over_missing_tasks(make, boards):
    whole_benchmark(make, "whole")
    for task in COMPARED[:-1]:
        make("lacking", task=task.key, metrics=shares(0.9))
    whole, lacking = boards()["run"].rows
    assert whole.key == "whole"  # a row without a mean stands below, whatever its figures
    main = [0.6 if metric == "Recall@10" else 0.25 if metric == "Recall@1" else 0.5 for _, metric in MAIN]
    assert whole.mean == pytest.approx(100 * np.mean(main))
    assert lacking.mean is None
    assert [cell is None for cell in lacking.cells] == [task == COMPARED[-1].key for task, _ in MEASURES]


def test_mean_ranks_are_among_models_that_have_all_tasks(make, boards):
    whole_benchmark(make, "whole")
    for task in COMPARED:
        make("better", task=task.key, metrics={**shares(0.6), "Recall@10": 0.7})
    make("one", task="OKVQA", metrics=shares(0.9))
    better, whole, one = boards()["run"].rows
    assert [row.key for row in (better, whole, one)] == ["better", "whole", "one"]
    assert (better.standing.rank, whole.standing.rank, one.standing) == (1, 2, None)
    assert [row.standing.undominated for row in (better, whole)] == [True, False]
    assert better.standing.mean_ends[0] < better.mean < better.standing.mean_ends[1]
    assert better.standing.rank_ends is None  # what each query gave is not known


def test_mean_ranks_have_an_interval_where_every_query_is_known(make, boards, records):
    rng = np.random.default_rng(0)
    hits = {}
    for folder, share in (("a", 0.6), ("b", 0.58), ("c", 0.1)):
        for task in COMPARED:
            drawn = (rng.random(1000) < share).astype(float)
            metrics = dict.fromkeys(("Recall@1", "Recall@5", "Recall@10"), float(drawn.mean()))
            make(folder, task=task.key, metrics={**metrics, "PRecall@5": 0.5})
            hits |= {(f"{folder}/{task.key}.json", name): drawn for name in metrics}
    found = {row.key: row.standing for row in boards(hits=hits)["run"].rows}
    assert found["c"].rank_ends == (3, 3)
    assert 1 <= found["a"].rank_ends[0] < found["a"].rank_ends[1] <= 2
    del hits["c/WIT.json", "Recall@10"]
    assert not boards(hits=hits)["run"].rank_ends


def test_rows_of_different_data_have_no_mean(make, boards):
    for folder, dataset in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "three")):
        whole_benchmark(make, folder, dataset=dataset)
    found = boards()
    assert all(row.mean is not None for row in found["run"].rows)
    apart = found["run-other-data"]
    assert [row.key for row in apart.rows] == ["c", "d"]
    assert not apart.has_mean
    assert not any(cell.best for row in apart.rows for cell in row.cells if cell)


def test_plain_runs_come_first_and_those_set_apart_below_the_official_figures(make, boards):
    make("a")
    make("b", ignored_inputs=["image"])
    make("c", nano=True, seed=0, ignored_inputs=["image"])
    make("d", limited=True)
    assert list(boards())[:5] == ["run", "official", "run-limited", "run-no-images", "run-nano-no-images"]


def test_r_and_pr_are_columns_of_their_own(make, boards):
    make(metrics={**shares(0.5), "PRecall@5": 0.7})
    cells = dict(zip(MEASURES, boards()["run"].rows[0].cells, strict=True))
    assert (cells["OKVQA", "Recall@5"].value, cells["OKVQA", "PRecall@5"].value) == pytest.approx((50, 70))
    assert [short(name) for name in ("PRecall@5", "MRR@10", "VQA", "EM")] == ["PR@5", "MRR@10", "VQA score", "EM"]


def test_a_text_only_task_is_shown_with_those_without_images(make, boards):
    make("a", ignored_inputs=["image"])
    make("a", task="MSMARCO")
    make("b", task="MSMARCO", metrics=shares(0.9))
    found = boards()
    assert {row.key for row in found["run"].rows} == {"a", "b"}
    (row,) = found["run-no-images"].rows
    cells = dict(zip(MEASURES, row.cells, strict=True))
    assert cells["MSMARCO", "Recall@5"] is not None
    assert cells["OKVQA", "Recall@5"] is not None


def test_published_blocks_are_boards_of_their_own(boards):
    found = boards()
    published = ["official", "paper-era", "encn", "m2kr-cn", "ret-m2kr", "fine-tuned", "reruns", "superseded"]
    assert list(found) == published
    official = {row.name: row for row in found["official"].rows}
    figures = [61.9, 71.8, 41.9, 78.3, 64.3, 72.6, 30.2, 39.2, 62.5]
    assert official["PreFLMR_ViT-G"].mean == pytest.approx(np.mean(figures))
    standing = {name: row.standing for name, row in official.items()}
    assert standing["PreFLMR_ViT-G"].rank == pytest.approx((1 + 1 + 2 + 2 + 1 + 2 + 2 + 1 + 1) / 9)
    assert (standing["PreFLMR_ViT-G"].mean_ends, standing["PreFLMR_ViT-G"].rank_ends) == (None, None)
    assert [standing[f"PreFLMR_ViT-{size}"].undominated for size in "GLB"] == [True, True, True]  # B leads on MSMARCO
    assert not any(row.mean for row in found["paper-era"].rows)
    plot = next(row for row in found["paper-era"].rows if "ViT-H" in row.name)
    assert all(cell.status == "digitised" for cell in plot.cells if cell)
    assert not any(cell.best for cell in plot.cells if cell)
    assert not found["encn"].rows[0].ranked
    assert dict(official["PreFLMR_ViT-L"].facts)["Source"] == (
        "LinWeizheDragon/FLMR@be4b748 README.md, first table of results, lines 46 to 50"
    )
    assert found["reruns"].items
    replaced = found["superseded"].items
    assert {item.status for item in replaced} == {"superseded"}
    assert ("LLaVA", [("Recall@5", 50.9)]) in [(item.about, item.figures) for item in replaced]


def test_a_figure_as_good_as_the_best_is_marked(make, boards, records):
    make("a", metrics=shares(0.5))
    make("b", metrics=shares(0.49))
    make("c", metrics=shares(0.1))
    rows = np.arange(1000)
    hits = {
        "a": (rows % 2 == 0) * 1.0,
        "b": ((rows % 2 == 0) & (rows >= 4) | (rows == 1)) * 1.0,
        "c": (rows % 10 == 0) * 1.0,
    }
    found = boards({(records()[0][0].pool, "Recall@5"): pairwise(hits)})
    place = MEASURES.index(("OKVQA", "Recall@5"))
    assert {row.key: (row.cells[place].best, row.cells[place].tied) for row in found["run"].rows} == {
        "a": (True, False),
        "b": (False, True),
        "c": (False, False),
    }


def test_the_positive_passages_are_not_the_best(make_answer, answers):
    for source, value in (("none", 0.3), ("run", 0.4), ("oracle", 0.9)):
        make_answer(source, source=source, metrics={"VQA": value})
    (board,) = answers()["OKVQA"]
    best = {row.answer.passages: (row.cells[0].best, row.ranked) for row in board.rows}
    assert best == {"none": (False, True), "bm25": (True, True), "oracle": (False, False)}


def test_one_result_alone_is_not_the_best(make_answer, answers):
    make_answer()
    (board,) = answers()["OKVQA"]
    assert not board.rows[0].cells[0].best


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"synthetic": True}, "Runs: made-up data"),
        ({"limited": True}, "Runs: first queries only"),
        ({"nano": True, "seed": 1}, "Runs: small subset"),
        ({"ignored_inputs": ["image"]}, "Runs: without images"),
        ({"split": "valid"}, "Runs: other split"),
        ({"dataset": "another"}, "Runs: other data"),
    ],
)
def test_what_sets_answers_apart_is_a_board_of_its_own(make_answer, answers, change, title):
    make_answer("a", answers_key="1")
    make_answer("b", answers_key="2")
    make_answer("c", answers_key="3", **change)
    plain, apart = answers()["OKVQA"]
    assert (plain.title, apart.title) == ("Runs", title)
    assert [len(plain.rows), len(apart.rows)] == [2, 1]


def test_exact_match_is_never_called_bem(make_answer, answers):
    make_answer("a", task="EVQA")
    (board,) = answers()["EVQA"]
    assert board.columns == [("EVQA", "EM")]
    make_answer("b", task="EVQA", answers_key="judged", metrics={"EM": 0.125, "BEM": 0.5})
    (board,) = answers()["EVQA"]
    assert board.columns == [("EVQA", "BEM"), ("EVQA", "EM")]
    assert [row.cells[0] is None for row in board.rows] == [True, False]
    assert "BEM was judged by my-bem" in board.note


def test_bem_of_two_judges_is_not_ranked_together(make_answer, answers):
    for number, judge in enumerate(("one", "other")):
        metrics = {"EM": 0.125, "BEM": 0.5 + number / 10}
        make_answer(judge, task="EVQA", metrics=metrics, bem={"checkpoint": judge}, answers_key=judge)
    (board,) = answers()["EVQA"]
    assert [row.cells[0].best for row in board.rows] == [False, False]
    assert [row.cells[1].best for row in board.rows] == [True, True]
    assert "BEM of one judge" in board.note


def test_passages_lead_to_the_run_and_say_what_sets_it_apart(make, make_answer, answers):
    make("bm25", model="bm25", ignored_inputs=["image"])
    make_answer()
    make_answer(name="OKVQA.joint-3.json", answers_key="other", run_sha256="1" * 64)
    (board,) = answers()["OKVQA"]
    found = sorted((row.run.slug if row.run else "", row.aside) for row in board.rows)
    assert found == [("", ""), ("bm25", "without images")]


def test_published_answers_stand_between_plain_results_and_others(make_answer, answers):
    make_answer("a")
    make_answer("b", limited=True, answers_key="other")
    found = answers(read_published(ANSWERING))
    assert [board.key for board in found["OKVQA"]] == ["run", "published", "run-limited"]
    assert [board.key for board in found["EVQA"]] == ["published"]
