"""The contracts of pyproject.toml on imports: which package knows which, and no circles among modules or packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINT = "import sys; from importlinter import cli; sys.exit(cli.lint_imports('pyproject.toml', no_cache=True))"


def test_imports_keep_to_the_arrows_and_form_no_circles():
    # In a process of its own, for it closes all handlers of `logging`, pytest's among them.
    done = subprocess.run([sys.executable, "-c", LINT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
