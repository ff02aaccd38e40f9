"""`make gpu` on a CPU with tiny sizes, and what becomes of its file: the same code as on a GPU, but for the timing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from m2kr.common.files import write_json
from m2kr.errors import M2KRError, run_command
from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import pictures
from tests.benchmarks.gpu import report as reports
from tests.benchmarks.gpu.bench import Bench, check
from tests.benchmarks.gpu.results import OutOfTime, Results, Skipped, read
from tests.made_once import made_once

pytestmark = pytest.mark.long

MEASURED = {"dtype", "batch", "peak_memory", "matrix_rate", "achieved", "per_second"}


def arguments(out: Path, *more: str) -> list[str]:
    return ["--tiny", "--device", "cpu", "--here", "--quiet", "--out", str(out), *more]


@pytest.fixture(scope="session")
def measured(built: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a whole run. Not to be changed."""

    def measure(out: Path) -> None:
        places = ("--data", str(built), "--images", str(world))
        assert gpu.main(arguments(out / "tiny.json", *places)) == 0

    return made_once("gpu", tmp_path_factory, measure) / "tiny.json"


def test_every_section_is_measured(measured: Path) -> None:
    value = read(measured)
    assert list(value["sections"]) == list(gpu.SECTIONS)
    assert {section["status"] for section in value["sections"].values()} == {"done"}
    parts = {(name, part): facts for name, own in value["sections"].items() for part, facts in own["parts"].items()}
    skipped = [part for (_, part), facts in parts.items() if facts["status"] == "skipped"]
    assert all(part.startswith(("fused kernel", "values of", "what bounds suppose")) for part in skipped)
    assert {facts["status"] for facts in parts.values()} <= {"done", "skipped"}
    kinds = {facts["kind"] for facts in parts.values() if facts["status"] == "done"}
    assert kinds == {"check", "figure", "evaluation", "pictures", "note"}
    for facts in parts.values():
        if facts.get("kind") == "figure":
            assert facts.keys() >= MEASURED
            assert min(facts[key] for key in MEASURED - {"dtype"}) > 0
            assert facts["seconds"]["least"] <= facts["seconds"]["median"] <= facts["seconds"]["most"]
            assert facts["per_second"] == facts["count"] / facts["seconds"]["median"]
    assert value["environment"]["versions"]["torch"]


def test_a_file_is_gone_on_with(measured: Path, tmp_path: Path) -> None:
    before = read(measured)
    parts = before["sections"]["encoding"]["parts"]
    lost, kept = parts.pop("ViT-B, images"), parts["ViT-B, passages"]
    out = tmp_path / "some.json"
    write_json(out, before)
    assert gpu.main(arguments(out, "--sections", "encoding")) == 0
    after = read(out)["sections"]["encoding"]
    assert after["parts"]["ViT-B, passages"] == kept
    assert after["parts"]["ViT-B, images"].keys() == lost.keys()
    stamp = out.read_bytes()
    assert gpu.main(arguments(out, "--sections", "encoding")) == 0
    assert out.read_bytes() == stamp
    other = arguments(out)
    other.remove("--tiny")
    with pytest.raises(M2KRError, match="'tiny': True"):
        gpu.main(other)


def test_what_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(bench: Bench) -> dict[str, Any]:
        def broken() -> dict[str, Any]:
            raise ValueError("of no use\nsecond line")

        def late() -> dict[str, Any]:
            raise OutOfTime("no time")

        def lacking() -> dict[str, Any]:
            raise Skipped("no such package")

        return {
            "broken": broken,
            "late": late,
            "lacking": lacking,
            "off": lambda: check(2.0, 1.0),
            "nothing": lambda: check(float("nan"), 1.0),
            "right": lambda: check(0.5, 1.0),
        }

    monkeypatch.setattr(pictures, "parts", parts)
    out = tmp_path / "figures.json"
    assert gpu.main(arguments(out, "--sections", "pictures")) == 1
    section = read(out)["sections"]["pictures"]
    statuses = {name: part["status"] for name, part in section["parts"].items()}
    assert statuses == {
        "broken": "failed", "late": "cut", "lacking": "skipped", "off": "wrong", "nothing": "wrong", "right": "done",
    }  # fmt: skip
    assert section["status"] == "failed"
    assert "ValueError: of no use (test_gpu_benchmark.py:" in section["parts"]["broken"]["why"]
    assert str(tmp_path) not in out.read_text()


def test_the_exit_code_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> dict[str, Any]:
        raise OutOfTime("no time")

    out = tmp_path / "figures.json"
    monkeypatch.setattr(pictures, "parts", lambda bench: {"late": late, "right": lambda: check(0.0, 1.0)})
    assert gpu.main(arguments(out, "--sections", "pictures")) == 3
    monkeypatch.setattr(pictures, "parts", lambda bench: dict.fromkeys(("late", "right"), lambda: check(0.0, 1.0)))
    assert gpu.main(arguments(out, "--sections", "pictures")) == 0
    missing = gpu.Section(10, ("no_such_module",))
    monkeypatch.setitem(gpu.SECTIONS, "pictures", missing)
    assert gpu.main(arguments(tmp_path / "new.json", "--sections", "pictures")) == 0
    assert "no_such_module" in read(tmp_path / "new.json")["sections"]["pictures"]["why"]


def test_a_process_of_its_own_is_ended_in_time_and_keeps_no_part_from_its_turn(tmp_path: Path) -> None:
    def run(code: str, seconds: float = 60) -> int | None:
        return gpu.run_for([sys.executable, "-S", "-c", code], seconds)

    assert run("import time; time.sleep(600)", 0.2) is None
    assert [run(f"raise SystemExit({code})") for code in (0, 3)] == [0, 3]
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == -9

    results = Results(tmp_path / "cut.json", {})
    for crashed, status in ((False, "cut"), (True, "failed")):
        left = results.begin("searching", ["first", "second", "third"])
        results.section("searching")["running"] = left[0]
        results.finish("searching", "it ended", crashed=crashed)
        section = read(tmp_path / "cut.json")["sections"]["searching"]
        assert section["parts"].pop(left[0])["status"] == section["status"] == status
        assert {part["status"] for part in section["parts"].values()} == {"cut"}
        assert not results.is_whole("searching")
    assert results.begin("searching", ["first", "second", "third"]) == ["third", "first", "second"]


def test_the_page_shows_every_part(measured: Path) -> None:
    value = read(measured)
    text = reports.report(value)
    assert "no measurements" in text
    for section in value["sections"].values():
        for name, part in section["parts"].items():
            assert reports.plain(part.get("task", name)) in text
    value["sections"]["pictures"]["parts"]["x"] = {"status": "failed", "took": 0.0, "why": "<b>a|b</b>\n# c"}
    assert "- x: failed: &lt;b>a&#124;b&lt;/b> # c" in reports.report(value)


def test_figures_of_a_gpu_come_onto_the_page_and_no_others(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept, figures = tmp_path / "page.md", tmp_path / "kept.json", tmp_path / "figures.json"
    places = ["--page", str(page), "--kept", str(kept)]
    page.write_text(f"# Before\n{reports.BEGIN}\nold\n{reports.END}\nafter\n")
    assert run_command(reports.main, [str(measured), *places]) == 2
    assert "which measure no GPU" in capsys.readouterr().err
    assert reports.main(["--check", *places]) == 1
    assert reports.main(places) == 0
    assert "Not run yet" in page.read_text()
    write_json(figures, read(measured) | {"settings": {"device": "cuda", "tiny": False}})
    assert reports.main([str(figures), *places]) == 0
    assert json.loads(kept.read_text()) == read(figures)
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith(f"{reports.END}\nafter\n")
    assert "no measurements" not in text
    assert "### Training: done" in text
    assert reports.main(["--check", *places]) == 0
    page.write_text("no markers")
    with pytest.raises(M2KRError, match="gpu:begin"):
        reports.main(places)


def test_the_page_of_the_checkout_is_as_its_file_is() -> None:
    assert reports.main(["--check"]) == 0
