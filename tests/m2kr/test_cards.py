"""Cards: all of them, as the code is, and the check that says when they are not."""

import dataclasses
import re
import shutil

import pytest

from m2kr.cards import ROOT, card, main, options_page, tasks_table
from m2kr.common.templates import cell
from m2kr.errors import run_command
from m2kr.formats.schema import arrow_schema
from m2kr.sources.options import source_of
from m2kr.tasks import RELEASES, TASKS


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / "data_cards", tmp_path / "data_cards")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert main(["--update", "--root", str(tmp_path)]) == 0
    return tmp_path


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.key)
def test_a_card_holds_all_that_the_code_knows(task):
    text = card(task)
    for release in (RELEASES[folder] for folder in task.releases):
        assert release.url in text
        assert release.terms in text
        assert release.licence == "other" or release.licence in text
    for config in (task.data_config, task.passages_config):
        for column in arrow_schema(config).names:
            assert f"| `{column}` | " in text
    for split, (queries, passages) in task.published.items():
        assert f"| {split} | {queries:,} | {passages:,} |" in text
    for wanted in (task.description, task.citation, *task.instructions, *task.metrics):
        assert wanted in text
    for option in dataclasses.fields(source_of(task.key).Options):
        choices = text.split("## Choices")[1].splitlines()
        row = next(line for line in choices if line.startswith(f"| `{option.name}` | "))
        assert str(option.default).lower() in row.lower()


def test_every_row_of_every_table_has_as_many_cells_as_its_head():
    for text in (*(card(task) for task in TASKS.values()), tasks_table(), options_page()):
        for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(cells) == 1, table


def test_stale_missing_and_extra_files_fail_the_check_and_are_mended(checkout, capsys):
    root = ["--root", str(checkout)]
    assert main(["--check", *root]) == 0
    path = checkout / "data_cards" / "OVEN.md"
    path.write_text(path.read_text(encoding="utf-8") + "more", encoding="utf-8")
    (checkout / "data_cards" / "WIT.md").unlink()
    (checkout / "data_cards" / "OLD.md").write_text("old")
    readme = checkout / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text.replace("| [OVEN]", "| [Oven]"), encoding="utf-8")
    capsys.readouterr()
    assert main(["--check", *root]) == 1
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("OVEN.md", "WIT.md", "OLD.md", "README.md", "make cards"))
    assert main(["--update", *root]) == 0
    assert main(["--check", *root]) == 0
    assert readme.read_text(encoding="utf-8") == text
    assert not (checkout / "data_cards" / "OLD.md").exists()


BEGIN, END = "<!-- tasks:begin -->", "<!-- measures:end -->"


@pytest.mark.parametrize("change", [(BEGIN, ""), (END, ""), (BEGIN, END), (END, f"{END}{END}")])
def test_a_readme_without_its_markers_is_an_error(checkout, capsys, change):
    readme = checkout / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    assert run_command(main, ["--check", "--root", str(checkout)]) == 2
    assert "markers" in capsys.readouterr().err


def test_cards_of_a_built_benchmark_tell_what_was_counted(built, tmp_path, capsys):
    assert main(["--data", str(built), "--out", str(tmp_path / "cards")]) == 0
    text = (tmp_path / "cards" / "OKVQA.md").read_text(encoding="utf-8")
    assert "**The data is made up**" in text
    assert '"OKVQA_data/test"' in text
    assert str(built) not in text
    assert "Counted" not in card(TASKS["OKVQA"])
    assert run_command(main, ["--data", str(built)]) == 2
    assert run_command(main, ["--data", str(tmp_path), "--out", str(tmp_path)]) == 2


def test_a_cell_holds_any_text():
    assert cell("a|b\nc <d>") == "a\\|b c &lt;d&gt;"
