"""The command ``python -m m2kr.answer``."""

from m2kr.answer.task import main
from m2kr.errors import run_command

if __name__ == "__main__":
    raise SystemExit(run_command(main))
