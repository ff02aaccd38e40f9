"""What tests of the build command share."""

from m2kr.build.__main__ import main
from m2kr.errors import run_command
from m2kr.formats.manifest import read_manifest


def build(raw, out, *arguments):
    return run_command(main, ["--raw", str(raw), "--out", str(out), "--workers", "2", *arguments])


def contents(folder):
    """Every file under a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entry_of(out, task):
    return read_manifest(out)["tasks"][task]
