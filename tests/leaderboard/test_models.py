"""`leaderboard.models`: what is known of each model on the board, and that none of it lacks a source."""

from __future__ import annotations

import pytest

from leaderboard.boards import run_boards
from leaderboard.figures import run_figures
from leaderboard.models import PUBLISHED_ONLY, facts_of, names_of_run
from leaderboard.published import read_published
from m2kr.common.model_records import read_records
from m2kr.retriever import REGISTRY
from m2kr.tasks import TASKS
from tests.made_results import a_result

RECORDS = {**REGISTRY.records(), **read_records(PUBLISHED_ONLY)["retriever"]}
UNNAMED = {"Baseline in PreFLMR's radar plot"}


def test_every_model_on_the_board_has_a_record():
    models = set(read_published()["model"]) - UNNAMED
    assert len(models) > 20
    assert [name for name in models if not facts_of([name]).source] == []
    loaders = {"mteb", "sentence-transformer"}  # of models of any name
    assert {name for name in REGISTRY.names() if not facts_of([name]).source} == loaders
    assert all(not facts_of([name]).source for name in UNNAMED)


@pytest.mark.parametrize("name", RECORDS)
def test_what_a_record_says_of_training_has_a_source(name):
    record = RECORDS[name]
    assert set(record.trained) <= {*TASKS, "others"}
    assert record.source
    assert record.trained_source or not record.trained
    assert record.passage_vectors is None or record.vectors == "multi"


def test_preflmr_was_trained_on_all_but_iglue():
    about = facts_of(["PreFLMR_ViT-L"])
    assert dict(about.trained) == {task: "no" if task == "IGLUE" else "yes" for task in TASKS}
    assert (about.parameters, about.year, about.licence, about.open_weights) == (543_170_176, 2024, "mit", True)
    assert (about.vectors, about.dimension, about.passage_bytes) == (512, 128, 512 * 128 * 2)
    assert facts_of(["PreFLMR ViT-L (paper)"]) == facts_of(["preflmr-vit-l"]) == about


def test_what_is_not_known_is_unknown():
    about = facts_of(["my-model"])
    assert {about.trained_on(task) for task in TASKS} == {"unknown"}
    assert (about.parameters, about.passage_bytes, about.licence, about.source) == (None, None, "unknown", "")
    assert facts_of(["clip-vit-b-32"]).trained_on("WIT") == "unknown"  # its WIT is another
    assert facts_of(["ReT-CLIP-ViT-L-14"]).trained_on("CC") == "unknown"


def test_a_run_tells_more_than_the_record():
    about = facts_of(["preflmr-vit-l"], parameters=7, vectors=300)
    assert (about.parameters, about.vectors, about.passage_bytes) == (7, 300, 300 * 128 * 2)
    assert facts_of(["dpr"], vectors=300).vectors == 1
    assert facts_of(["bm25"]).passage_bytes is None
    run = a_result(model="clip-vit-b-32-image", model_settings={"checkpoint": "openai/clip-vit-base-patch32"})
    assert facts_of(names_of_run(run)).passage_bytes == 512 * 2


def test_boards_say_how_was_searched_and_who_was_trained(make, results):
    from leaderboard.records import read_records as read_results

    make("mine", model="preflmr-vit-l", model_settings={"doc_maxlen": 256})
    make("other")
    runs = [record.marked({}) for record in read_results(results)[0]]
    boards = {board.key: board for board in run_boards(runs, run_figures(runs, read_published()))}
    rows = {row.name: row for row in boards["run"].rows}
    assert (rows["preflmr-vit-l"].search, rows["preflmr-vit-l"].about.vectors) == ("exact", 256)
    assert {cell.trained for cell in rows["preflmr-vit-l"].cells if cell} == {"yes"}
    assert {cell.trained for cell in rows["my-model"].cells if cell} == {"unknown"}
    made_up = [record.marked({}) for record in read_results(results)[0]]
    for record in made_up:
        record.result["synthetic"] = True
    made_up = [record.marked({}) for record in made_up]
    (board,) = [board for board in run_boards(made_up, run_figures(made_up, read_published()[:0])) if board.own]
    assert {cell.trained for row in board.rows for cell in row.cells if cell} == {"unknown"}  # other data, same names
    assert "yes: WIT" in dict(rows["preflmr-vit-l"].facts)["Trained on"]
    assert boards["official"].rows[0].search.startswith("approximate: ColBERT")
    assert [board.benchmark for board in boards.values() if board.benchmark != "M2KR"] == ["M2KR-CN", "ReT-M2KR"]
