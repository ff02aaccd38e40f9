"""The command ``python -m m2kr.results``."""

from m2kr.errors import run_command
from m2kr.results.record import main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
