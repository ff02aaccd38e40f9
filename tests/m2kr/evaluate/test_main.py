"""`python -m m2kr.evaluate`: what the command passes on, prints and refuses."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr import dataset
from m2kr.common.cli import option, options_table, parse
from m2kr.dataset import TaskData
from m2kr.errors import run_command
from m2kr.evaluate.__main__ import main
from m2kr.evaluate.options import EvaluateOptions, TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.results.__main__ import main as show_results
from m2kr.results.record import read_result
from m2kr.tasks import HUB_ID, TASKS
from tests.m2kr.evaluating import DIM, run_of


@pytest.mark.usefixtures("registered")
def test_the_command_evaluates_all_tasks_and_prints_one_table(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "bm25", "--data", str(built), "--ignore-images", "--out", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    tested = [task for task in TASKS.values() if "test" in task.splits]
    assert [line.split()[:3] for line in out.splitlines()[2 : 2 + len(tested)]] == [
        [task.key, "test", "bm25*" if task.reads_images else "bm25"] for task in tested
    ]
    assert "made-up data" in out
    assert {path.stem for path in (tmp_path / "bm25").glob("*.json")} == {task.key for task in tested}
    assert show_results([str(tmp_path)]) == 0
    assert capsys.readouterr().out == out


def test_the_command_passes_its_options_on(built: Path, world: Path, tmp_path: Path, registered: list[Any]) -> None:
    arguments = ["--model", "seeing", "--data", str(built), "--tasks", "okvqa", "--images", str(world), "--quiet"]
    arguments += ["--out", str(tmp_path), "--top-k", "9", "--limit", "3", "--split", "valid", "--batch-size", "2"]
    assert main([*arguments, "--dtype", "float16"]) == 0
    result = read_result(tmp_path / "fake-single" / "OKVQA.valid.json")
    assert (result["split"], result["queries"], result["top_k"]) == ("valid", 3, 9)
    assert (result["batch_size"], result["dtype"], result["limited"]) == (2, "float16", True)
    assert len(registered[0].asked) == 3
    lines = gzip.decompress(run_of(tmp_path / "fake-single", "OKVQA.valid")).splitlines()
    assert len(lines) == 27


def test_a_model_alone_is_enough_where_data_and_raw_files_lie_here(
    data: Path,
    world: Path,
    tmp_path: Path,
    registered: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data.rename(tmp_path / "m2kr-data")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "coco").symlink_to(world / "coco")
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "seeing"]) == 0
    printed = capsys.readouterr()
    assert "MSMARCO, OKVQA of m2kr-data, on cpu in float32, 32 at once" in printed.err.splitlines()[0]
    assert {path.stem for path in (tmp_path / "results" / "fake-single").glob("*.json")} == {"MSMARCO", "OKVQA"}
    result = read_result(tmp_path / "results" / "fake-single" / "OKVQA.json")
    assert (result["device"], result["dtype"], result["ignored_inputs"]) == ("cpu", "float32", [])


def test_where_no_benchmark_lies_here_it_is_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(EvaluateOptions, ["--model", "bm25"], prog="", description="").data == HUB_ID
    (tmp_path / "m2kr-data").mkdir()
    assert parse(EvaluateOptions, ["--model", "bm25"], prog="", description="").data == "m2kr-data"


def test_a_nano_result_has_a_name_of_its_own_and_says_so(
    built: Path,
    tmp_path: Path,
    registered: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dataset.nano_subset, "__kwdefaults__", {"seed": 0, "queries": 5, "passages": 80})
    arguments = ["--model", "single", "--data", str(built), "--tasks", "OKVQA", "--ignore-images", "--quiet"]
    arguments += ["--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--nano", "--seed", "3"]) == 0
    assert main([*arguments, "--nano", "--seed", "3"]) == 0  # finished before
    assert capsys.readouterr().out.count("--nano") == 2
    assert [len(one.read) for one in registered] == [266, 80, 0]
    folder = tmp_path / "fake-single"
    result = read_result(folder / "OKVQA.nano.json")
    assert (result["nano"], result["seed"], result["queries"], result["passages"]) == (True, 3, 5, 80)
    assert len(gzip.decompress(run_of(folder, "OKVQA.nano")).splitlines()) == 5 * 80
    assert read_result(folder / "OKVQA.json")["passages"] == 266
    assert run_command(main, [*arguments, "--nano"]) == 2  # seed 0 is another subset
    assert "holds a result with other settings" in capsys.readouterr().err


def test_options_of_the_retriever_are_recorded(built: Path, tmp_path: Path, registered: list[Any]) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "MSMARCO", "--out", str(tmp_path), "--quiet"]
    assert main([*arguments, "--option", "fusion=sum", "--option", "layers=2"]) == 0
    result = read_result(tmp_path / "fake-single" / "MSMARCO.json")
    assert result["model_settings"] == {"dim": DIM, "options": {"fusion": "sum", "layers": "2"}}
    assert run_command(main, [*arguments, "--option", "fusion=image"]) == 2


def test_an_image_task_is_refused_in_one_line_before_any_task_begins(
    built: Path, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "all", "--out", str(tmp_path / "out")]
    assert run_command(main, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: WIT asks with images")
    assert "--ignore-images" in err
    assert err.count("\n") == 1
    assert not registered[0].read
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k", "0"], "--top-k is 0; it has to be 1 or more"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--limit", "0"], "--limit is 0"),
        (["--limit", "3", "--nano"], "Pass one of them"),
        (["--workers", "-1"], "--workers is -1"),
        (["--option", "fusion"], "write it as NAME=VALUE"),
        (["--search-memory", "0"], "--search-memory is 0.0"),
        (["--search-memory", "nan"], "--search-memory is nan"),
        (["--tasks", "OKVAQ"], "Did you mean OKVQA?"),
        (["--tasks", ","], "the list of tasks is empty"),
        (["--tasks", "MSMARCO,CC"], "has no test split of CC; it has one of WIT, IGLUE, KVQA, MSMARCO, OVEN, LLaVA"),
        (["--split", "valid", "--tasks", "LLaVA"], "has no valid split of LLaVA; it has one of WIT, KVQA, MSMARCO"),
        (["--split", "dev"], "holds no task with a dev split"),
        (["--model", "singel"], "Did you mean single?"),
        (["--images", "missing"], "missing is not a folder"),
        (["--data", "missing", "--tasks", "MSMARCO"], "missing is no folder here"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["--model", "single", "--data", str(built), "--ignore-images", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("registered")
def test_a_file_is_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run_command(main, ["--model", "single", "--data", str(tmp_path / "file")]) == 2
    assert "file is a file" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class WithTemperature(TaskOptions):
    """The options of an evaluation, and one more."""

    temperature: float = option("of the softmax", 1.0, above=0, in_key=True, in_result=True)


def test_an_option_is_added_by_one_field(msmarco: TaskData, tmp_path: Path) -> None:
    plain = evaluate_task(BM25(), msmarco, tmp_path / "plain", TaskOptions(quiet=True))
    given = ["--temperature", "2", "--top-k", "20", "--quiet"]
    more = []
    for n in (2, 5):
        options = parse(WithTemperature, given[:n], prog="x", description="x")
        more.append(evaluate_task(BM25(), msmarco, tmp_path / str(n), options))
    assert [read_result(tmp_path / str(n) / "MSMARCO.json") for n in (2, 5)] == more
    assert [result["temperature"] for result in more] == [2.0, 2.0]  # type: ignore[typeddict-item]
    assert len({result["key"] for result in (plain, *more)}) == 3
    assert [*plain, "temperature"] == list(more[0])
    assert "| `--temperature TEMPERATURE` | of the softmax; default 1 |" in options_table(WithTemperature)


COMMANDS = (
    "m2kr.evaluate.__main__",
    "m2kr.answer.__main__",
    "m2kr.results.__main__",
    "m2kr.ask",
    "m2kr.score",
    "m2kr.build.__main__",
)


@pytest.mark.parametrize(
    "program",
    [
        "import m2kr",
        *(f"from {module} import main\nwith suppress(SystemExit): main(['--help'])" for module in COMMANDS),
        "from m2kr.evaluate.__main__ import main\nwith suppress(SystemExit): main(['--list-models'])",
    ],
)
def test_what_only_shows_help_or_models_imports_nothing_heavy(program: str) -> None:
    heavy = ["torch", "polars", "datasets", "ranx", "transformers", "sentence_transformers", "pandas", "pyarrow"]
    program = f"from contextlib import suppress\n{program}"
    program += f"\nimport json, sys\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_list_of_models_needs_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list-models"])
    assert ended.value.code == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    facts = ("image and text", "multi", "2,210,000,000", "apache-2.0", "vidore/colqwen2-v1.0-hf", "README")
    assert all(fact in lines["colqwen2"] for fact in facts)
    assert {"bm25", "preflmr-vit-l", "dpr", "gme-qwen2-vl-2b"} <= set(lines)
