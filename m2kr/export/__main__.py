"""The command ``python -m m2kr.export``."""

from m2kr.errors import run_command
from m2kr.export.task import main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
