#!/usr/bin/env bash
# datasets 5.2.0: a folder with a dataset card whose files were replaced is answered from the cache of the old ones.
#
# Guess: the cache of a local folder is named by its files (path, size, time of change), so that other files are read
# anew. That is what happens without a card.
# Seen: with a README.md that lists the files, the cache is named by what that card declares (configs, dataset_info).
# Files with other rows under the same names give the old rows, in a fresh process too, until a declaration changes;
# other words in the card do not help.
. "$(dirname "$0")/lib/environment.sh"
run_with 'datasets==5.2.0' 'pyarrow==26.0.1' <<'PY'
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CARD = """---
configs:
- config_name: questions
  data_files:
  - split: test
    path: questions/test-*.parquet
---
"""
LOAD = """
import sys
from datasets import load_dataset
name = ["questions"] if sys.argv[2] == "card" else []
print(load_dataset(sys.argv[1], *name, split="test", cache_dir="cache").to_list())
"""


def load(folder, words, card=None):
    """What a fresh process reads of a folder with these words."""
    (folder / "questions").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"question": words}), folder / "questions" / "test-00000-of-00001.parquet")
    if card:
        (folder / "README.md").write_text(card)
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(folder), "card" if card else "none"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


old, new = "[{'question': 'who'}]", "[{'question': 'where'}, {'question': 'when'}]"
plain = [load(Path("plain"), ["who"]), load(Path("plain"), ["where", "when"])]
print("without a card:", *plain)
assert plain == [old, new]
carded = [load(Path("carded"), ["who"], CARD), load(Path("carded"), ["where", "when"], CARD)]
print("with a card:", *carded)
assert carded == [old, old]
text = load(Path("carded"), ["where", "when"], CARD + "Another word.\n")
print("and another word in its text:", text)
assert text == old
declared = CARD.replace("configs:", "dataset_info:\n- config_name: questions\n  description: second\nconfigs:")
told = load(Path("carded"), ["where", "when"], declared)
print("and another description in its dataset_info:", told)
assert told == new
PY
