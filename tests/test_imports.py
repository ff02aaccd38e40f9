"""The contracts of pyproject.toml on imports: which package knows which, and no circles among modules or packages."""

from __future__ import annotations

from pathlib import Path

from importlinter import cli

ROOT = Path(__file__).resolve().parents[1]


def test_imports_keep_to_the_arrows_and_form_no_circles(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert code == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out
