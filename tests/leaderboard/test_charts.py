"""`leaderboard.charts`: which figures are drawn together, and which are not drawn."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from leaderboard import plots
from leaderboard.boards import run_boards
from leaderboard.charts import SIZE_PAGES, front, size_page
from leaderboard.figures import run_figures
from leaderboard.published import read_published
from leaderboard.records import read_records


@pytest.fixture
def drawn(make, results, monkeypatch):
    """Return what a page of figures against a size draws: series of the first panel of each group, and their fronts."""

    def made(page):
        calls = []

        def noted(axis, series, **said):
            calls.append((said["name"], series, said["fronts"]))
            return Markup("")

        monkeypatch.setattr(plots, "against_size", noted)
        runs = [record.marked({}) for record in read_records(results)[0]]
        found = size_page(SIZE_PAGES[page], run_boards(runs, run_figures(runs, read_published())))
        return found["figures"], calls

    return made


def test_runs_are_drawn_with_what_was_published_of_the_same_benchmark(make, drawn):
    make("a", model="preflmr-vit-l", task="OKVQA", model_settings={"parameters": 5 * 10**8, "doc_maxlen": 512})
    make("b", model="clip-vit-l-14", task="OKVQA", model_settings={"parameters": 4 * 10**8})
    figures, calls = drawn("storage.html")
    assert [figure["title"] for figure in figures] == ["Figures on the published data"]  # ReT's have one size
    okvqa = next(series for name, series, _ in calls if any(label == "Runs" for label, _ in series))
    points = dict(okvqa)
    assert points["Runs"] == [("clip-vit-l-14", 768 * 2.0, 43.0), ("preflmr-vit-l", 512 * 128 * 2.0, 43.0)]
    assert {label for _, series, _ in calls for label, _ in series} == {
        "Runs",
        "Published: current official figures",
        "Published: figures of the paper's time",
    }
    assert next(fronts["Runs"] for _, _, fronts in calls if "Runs" in fronts) == {"clip-vit-l-14"}


def test_models_that_are_not_ranked_are_on_no_front(drawn):
    _, calls = drawn("parameters.html")
    assert all("radar" not in model for _, _, fronts in calls for models in fronts.values() for model in models)
    assert any("PreFLMR_ViT-B" in fronts.get("Published: current official figures", ()) for _, _, fronts in calls)


def test_a_front_is_what_nothing_smaller_beats():
    points = [("small", 1.0, 50.0), ("same", 2.0, 50.0), ("large", 3.0, 60.0), ("worse", 3.0, 55.0)]
    assert front(points) == {"small", "large"}
    assert front([("a", 1.0, 50.0), ("b", 1.0, 50.0)]) == {"a", "b"}
    assert front(points[:1]) == set()
