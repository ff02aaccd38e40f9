# Sourced by every finding: makes a temporary environment with pinned packages and runs a Python program in it.
#
#   . "$(dirname "$0")/lib/environment.sh"
#   run_with 'bm25s==0.3.16' 'numpy==2.4.6' <<'PY'
#   ...
#   PY
#
# The program runs in an empty folder, fails where the behaviour has changed, and the folder goes with the script.
set -euo pipefail

PYTHON=${PYTHON:-python3.11}
place=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'case $place in */finding.*) rm -rf -- "$place" ;; esac' EXIT

run_with() {
  "$PYTHON" -m venv "$place/environment"
  "$place/environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  printf 'with %s\n' "$*"
  mkdir "$place/work"
  cat > "$place/program.py"
  (cd "$place/work" && HF_HUB_OFFLINE=1 HF_HOME="$place/hub" "$place/environment/bin/python" -W ignore ../program.py)
  printf 'the behaviour is as stated\n'
}
