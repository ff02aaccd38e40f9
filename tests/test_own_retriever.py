"""docs/own-retriever.md as a new user follows it: the file, the commands, the page of the leaderboard."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from m2kr.errors import run_command
from m2kr.results.record import read_result

PAGE = (Path(__file__).parents[1] / "docs" / "own-retriever.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The one piece of code in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def run(line: str) -> int:
    """Run ``python -m MODULE ARGUMENTS`` in this process."""
    python, option, module, *arguments = shlex.split(line)
    assert (python, option) == ("python", "-m")
    spec = find_spec(module)
    assert spec is not None
    main = import_module(f"{module}.__main__" if spec.submodule_search_locations else module).main
    return run_command(main, arguments)


def test_the_page_leads_from_a_file_to_the_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = block("python")
    assert len([line for line in code.splitlines() if line]) <= 15
    (name,) = re.findall(r"Save it as `(\w+)\.py`", PAGE)
    Path(f"{name}.py").write_text(code)
    try:
        for line in block("bash").splitlines():
            assert run(line) == 0, (line, capsys.readouterr().err)
    finally:
        sys.modules.pop(name, None)
    assert "my-clip" in capsys.readouterr().out
    for task in ("OKVQA", "EVQA"):
        result = read_result(Path("results/my-clip") / f"{task}.json")
        assert (result["model"], result["ignored_inputs"]) == ("my-clip", [])
        assert result["metrics"]["Recall@10"] > 0
        assert "my-clip" in Path("site/index.html").read_text(encoding="utf-8")
        assert Path(f"site/runs/my-clip/queries-{task}.html").is_file()
