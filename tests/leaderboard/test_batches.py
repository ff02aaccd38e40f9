"""What the site says of models whose vectors depend on the batch, and of positives that are no passages."""

from __future__ import annotations

import json
import re

import pytest

from leaderboard.site import build
from m2kr.results.record import Result
from tests.made_results import write


@pytest.mark.usefixtures("undrawn")
def test_a_model_that_depends_on_the_batch_is_ranked_apart_and_says_by_how_much(make, results, tmp_path):
    make("steady", model="steady")
    make("other", model="other", batch_effect={"passages": 0.0, "queries": 1.66}, queries_with_absent_positive=1234)
    older = make("older", model="older")
    later = {key for key, kind in Result.__annotations__.items() if "NotRequired" in str(kind)}
    fields = json.loads(older.read_text(encoding="utf-8"))
    write(older, {key: value for key, value in fields.items() if key not in later})
    build(results, tmp_path / "site", quiet=True)
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    boards = dict(re.findall(r'<section[^>]*id="board-([^"]+)"(.*?)</section>', index, re.DOTALL))
    rows = {key: set(re.findall(r'<tr data-model="([^"]+)"', board)) for key, board in boards.items()}
    assert rows["run"] == {"steady", "older"}
    assert rows["run-batch-dependent"] == {"other"}
    pages = {
        name: (tmp_path / "site" / "runs" / name / "index.html").read_text() for name in ("steady", "other", "older")
    }
    assert "depends on the batch" in pages["other"]
    assert "passages differ by 0.0, queries differ by 1.66" in pages["other"]
    assert "<dd>1,234</dd>" in pages["other"]
    assert "queries differ by 3.4e-07" in pages["steady"]
    assert all("with a positive that is no passage" not in pages[name] for name in ("steady", "older"))
