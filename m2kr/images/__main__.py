"""The command ``python -m m2kr.images``."""

from m2kr.errors import run_command
from m2kr.images.roots import main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
