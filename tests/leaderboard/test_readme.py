"""`python -m leaderboard readme`: the table in the README."""

from __future__ import annotations

import pytest

from leaderboard.__main__ import main
from leaderboard.readme import BEGIN, END, markdown, updated
from m2kr.errors import M2KRError, run_command


def test_the_table_has_the_official_figures():
    lines = markdown().splitlines()
    assert len(lines) == 5
    assert lines[2].startswith(
        "| PreFLMR_ViT-G | 61.9 | 71.8 | 41.9 | 78.3 | 64.3 | 72.6 | 30.2 | 67.4 | 39.2 | 57.7 |"
    )
    assert lines[2].endswith("| LinWeizheDragon/FLMR@be4b748 README.md |")
    assert {line.count("|") for line in lines} == {15}


def test_runs_come_first_and_marked_ones_not_at_all(make, results):
    make("plain", model="a|b<i>*x*")
    make("marked", model="marked", nano=True, seed=0)
    lines = markdown(results).splitlines()
    assert lines[2].startswith("| a&#124;b&lt;i>\\*x\\* | – |")
    assert not any("marked" in line for line in lines)


def test_the_text_around_the_table_is_kept():
    assert updated(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_markers_is_refused(text):
    with pytest.raises(M2KRError, match="needs the lines"):
        updated(text, "new")


def test_a_stale_table_is_noticed_and_mended(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text(f"x\n{BEGIN}\n{END}\n", encoding="utf-8")
    readme = ["readme", "--readme", str(path)]
    assert run_command(main, [*readme, "--check"]) == 1
    assert "stale" in capsys.readouterr().out
    assert run_command(main, readme) == 0
    assert run_command(main, [*readme, "--check"]) == 0
