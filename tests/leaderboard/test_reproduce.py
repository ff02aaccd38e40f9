"""`python -m leaderboard reproduce`, with nothing here and a small model in official form on a hub of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from leaderboard import published, reproduce, verify
from leaderboard.__main__ import main
from leaderboard.published import RETRIEVAL, read_published
from leaderboard.submission import check
from m2kr.errors import run_command
from m2kr.formats.shards import split_shards
from m2kr.tasks import HUB_ID, TASKS
from tests.hub_server import HubServer, files_in
from tests.m2kr import hub as hub_files

MODEL = "LinWeizheDragon/PreFLMR_ViT-B"
MINI = Path(__file__).parents[2] / "baselines" / "minis" / "preflmr-mini"
RUN = ["reproduce", "--model", "preflmr-vit-b"]
REPORT = Path("reproduced", "preflmr-vit-b.IGLUE.md")

Publish = Callable[..., None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Let one figure be all that is published."""

    def done(value: float, **changes: str) -> None:
        row = dict(zip(RETRIEVAL.columns, [""] * len(RETRIEVAL.columns), strict=True))
        row |= {"model": "PreFLMR_ViT-B", "task": "IGLUE", "metric": "Recall@1", "block": "official", "ranked": "yes"}
        row |= {"value": f"{value:.1f}", "source": "a made-up list", "place": "its only line", "status": "verified"}
        path = tmp_path / "published.csv"
        path.write_text(f"{','.join(row)}\n{','.join((row | changes).values())}\n", encoding="utf-8")
        for module in (published, verify, reproduce):
            monkeypatch.setattr(module, "read_published", lambda: read_published(replace(RETRIEVAL, path=path)))

    return done


@pytest.fixture
def pool(built: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Numbers of queries and passages of the made-up IGLUE, which are those of the published one now."""
    task = TASKS["IGLUE"]
    tables = ((task.data_config, "test"), (task.passages_config, "test_passages"))
    queries, passages = (pl.read_parquet(split_shards(built, *table)).height for table in tables)
    monkeypatch.setitem(TASKS, "IGLUE", replace(task, published={"test": (queries, passages)}))
    return queries, passages


@pytest.fixture
def hub(built: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with HubServer() as server:
        archive = hub_files.stored_zip(hub_files.pictures(world, "wit/images"))
        hub_files.published(server, built, hub_files.in_parts("WIT/images.zip", archive, 3), ["IGLUE"])
        server.publish(MODEL, files_in(MINI))
        with hub_files.client_of(server, tmp_path / "home"):
            yield server


def report() -> Any:
    return json.loads(REPORT.with_suffix(".json").read_text(encoding="utf-8"))


def test_from_an_empty_cache_through_a_cut_and_a_kill_to_a_report(
    hub: HubServer, pool: tuple[int, int], publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(2)  # which is false
    weights = (MINI / "model.safetensors").stat().st_size
    hub.cut["model.safetensors"] = [weights // 2]
    for part in (1, 2, 3):
        hub.fail[f"WIT/images.zip.00{part}"] = [403] * 4  # the hub has enough of us in the midst of it
    assert run_command(main, RUN) == 2
    said = capsys.readouterr().err
    assert f"{MODEL}@" in said
    assert "3.96 MB of weights are to be fetched" in said
    assert f"fetching IGLUE of {HUB_ID}@" in said
    assert "Run the same command again" in said
    assert not REPORT.exists()
    assert weights <= hub.sent["model.safetensors"] < 1.6 * weights  # it went on where it was cut
    hub.fail.clear()
    hub.forget()

    assert run_command(main, RUN) == 1
    said = capsys.readouterr()
    assert "IGLUE: fetching" in said.err
    assert not any(path.endswith((".safetensors", ".parquet")) for path in hub.sent)
    assert said.out.splitlines()[2].endswith("off")
    assert REPORT.read_text(encoding="utf-8").startswith("# Reproduction of PreFLMR_ViT-B: IGLUE off\n")
    figure, result = report()["figures"][0], report()["results"]["IGLUE"]
    assert figure["verdict"] == "off"
    assert figure["ours"] == 100 * result["metrics"]["Recall@1"] > figure["published"] + figure["near"]
    assert (result["queries"], result["passages"]) == pool
    before = REPORT.read_bytes()
    hub.forget()

    assert run_command(main, RUN) == 1
    assert "reported before" in capsys.readouterr().err
    assert hub.asked == []
    assert REPORT.read_bytes() == before

    publish(figure["ours"])
    assert run_command(main, RUN) == 0
    said = capsys.readouterr()
    assert "IGLUE: finished before" in said.err
    assert said.out.splitlines()[2].endswith("OK")
    text = REPORT.read_text(encoding="utf-8")
    assert text.startswith("# Reproduction of PreFLMR_ViT-B: IGLUE OK\n")
    assert "(0 queries)" in text
    facts = ("python -m leaderboard reproduce --model preflmr-vit-b", result["run_sha256"], result["hardware"])
    versions = (f"torch {result['versions']['torch']}", f"{HUB_ID}@", result["model_settings"]["checkpoint_sha256"])
    for fact in (*facts, *versions, result["dataset"], result["pictures"], "a made-up list, its only line"):
        assert fact in text
    files = [Path("reproduced", name) for name in report()["files"] if name.endswith(".json")]
    assert [check(path, HUB_ID) for path in files] == [[]]


@pytest.mark.parametrize(
    ("arguments", "changes", "reason"),
    [
        (["--tasks", "WIT"], {}, "no figure of PreFLMR_ViT-B is published of it"),
        (["--tasks", "CC"], {}, "no figure of PreFLMR_ViT-B is published of it"),
        ([], {"status": "superseded", "ranked": "no"}, "its authors replaced the published figure"),
        ([], {"status": "digitised", "ranked": "no"}, "read off a plot"),
        (["--block", "encn"], {}, "There are some of it in official"),
        (["--block", "m2kr-cn"], {"block": "m2kr-cn"}, "the published figures are of M2KR-CN"),
        (["--model", "bm25"], {}, "no figures are published for 'bm25'"),
        ([], {"metric": "Recall@7"}, "no result has Recall@7"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_fetched(
    hub: HubServer,
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    changes: dict[str, str],
    reason: str,
) -> None:
    publish(50, **changes)
    assert run_command(main, [*RUN, *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert hub.asked == []


def test_another_pool_is_refused_before_the_model_is_fetched(
    hub: HubServer, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(50)
    assert run_command(main, RUN) == 2
    assert "where 685 and 1,000 are published" in capsys.readouterr().err
    assert not any(path.endswith(".safetensors") for path in hub.sent)


def test_made_up_tables_are_refused(built: Path, pool: Any, publish: Publish, capsys: Any) -> None:
    publish(50)
    assert run_command(main, [*RUN, "--data", str(built), "--checkpoint", str(MINI)]) == 2
    assert "it is made up" in capsys.readouterr().err
