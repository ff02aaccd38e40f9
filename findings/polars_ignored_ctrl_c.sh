#!/usr/bin/env bash
# Polars 2.1.0: with its import, programs started from a process that ignores Ctrl-C no longer ignore it.
#
# Guess: what a shell script starts in its background ignores SIGINT, and so does everything started from there: that
# is inherited, and importing a library changes nothing of it.
# Seen: the import installs a handler of its own below Python's. signal.getsignal still says SIG_IGN, and the process
# itself does survive Ctrl-C, but a program has no handler when it begins: its children are ended.
. "$(dirname "$0")/lib/environment.sh"
run_with 'polars==2.1.0' <<'PY'
import os
import signal
import subprocess
import sys
import time

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's shell does for what it starts with "&"


def state():
    asked = signal.getsignal(signal.SIGINT).name
    child = subprocess.Popen([sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(1)"], stdout=-1)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    return asked, "ignores it" if child.wait() == 0 else "is ended by it"


before = state()
import polars

after = state()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
print({"before": before, "after the import": after, "the process itself": "goes on"})
assert before == ("SIG_IGN", "ignores it"), before
assert after == ("SIG_IGN", "is ended by it"), after
PY
