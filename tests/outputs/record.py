"""Record everything that the commands write, and compare two such records: a redesign must change no byte of it.

``python tests/outputs/record.py make FOLDER`` runs the code of the current folder on the made-up world (scale 1, seed
0); ``python tests/outputs/record.py compare BEFORE AFTER`` says what differs, times, memory, versions and dates aside.
With ``--results`` the site is made of another record's results, so that its pages show the same times.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

MODELS = ("bm25", "clip-mini", "dpr-mini", "preflmr-mini")
# What a repeated run may change.
VOLATILE = ("seconds", "memory", "peak_memory", "versions", "commit", "hardware", "date", "evaluation_time")
STATES = """
import hashlib, json, sys
import numpy as np
from baselines.preflmr import PreFLMR
from m2kr.retriever import get_retriever
model = PreFLMR.from_pretrained("baselines/minis/preflmr-mini")
facts = {"state_dict": {name: list(value.shape) for name, value in model.state_dict().items()}}
texts = [f"What is the height of tower number {n}?" for n in range(5)]
for name in ("clip-mini", "dpr-mini", "preflmr-mini"):
    retriever = get_retriever(name)
    for verb in ("encode_query", "encode_document"):
        vectors = getattr(retriever, verb)(texts)
        facts[f"{name}.{verb}"] = hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in vectors)).hexdigest()
print(json.dumps(facts, indent=1))
"""


def make(out: Path, results: Path | None) -> None:
    """Run the commands; what they write stays in ``out``."""
    raw, data, found = out / "raw", out / "m2kr", out / "results"

    def run(module: str, *arguments: object) -> str:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        print(" ".join(command[2:]), flush=True)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    out.mkdir(parents=True)
    run("m2kr.synthetic", "--out", raw)
    run("m2kr.build", "--raw", raw, "--out", data, "--images", raw, "--quiet")
    run("m2kr.evaluate", "--model", "bm25", "--data", data, "--ignore-images", "--out", found, "--quiet")
    for model in MODELS[1:]:
        run("m2kr.evaluate", "--model", model, "--data", data, "--images", raw, "--out", found, "--quiet")
    run("m2kr.evaluate", "--model", "dpr-mini", "--data", data, "--images", raw, "--out", out / "nano", "--quiet",
        "--nano", "--tasks", "OKVQA,MSMARCO", "--store-dtype", "int8")  # fmt: skip
    runs = [f"--run-dir={found / model}" for model in MODELS if model != "clip-mini"]
    for passages in ("--no-retrieval", *runs, "--oracle"):
        run("m2kr.answer", "--reader", "reader-mini", passages, "--data", data, "--images", raw, "--batch-size", 32,
            "--out", found, "--quiet")  # fmt: skip
    run("m2kr.answer", "--reader", "reader-mini", f"--run-dir={found / 'bm25'}", "--combine", "concat", "--k", 2,
        "--data", data, "--images", raw, "--batch-size", 32, "--tasks", "OKVQA", "--out", found, "--quiet")  # fmt: skip
    for form in ("trec", "beir"):
        run("m2kr.export", data, "--to", form, "--out", out / form, "--quiet")
    run("m2kr.export", data, "--to", "mteb", "--out", out / "mteb", "--images", raw, "--quiet")
    run("m2kr.export", found, "--to", "mteb-results", "--out", out / "mteb-results")
    shown = results or found
    run("leaderboard", "--results", shown, "--out", out / "site", "--data", data, "--images", raw, "--quiet")
    texts = out / "printed"
    texts.mkdir()
    (texts / "results.txt").write_text(run("m2kr.results", shown))
    compared = (found / "bm25", found / "dpr-mini")  # another record's may be of other data, and are then refused
    (texts / "compare.txt").write_text(run("m2kr.evaluate", "--compare", *compared, "--data", data, "--quiet"))
    question = ("--task", "OKVQA", "--question", "How tall is this tower?", "--data", data, "--quiet")
    (texts / "ask.txt").write_text(run("m2kr.ask", "--model", "bm25", *question))
    (texts / "list.txt").write_text(run("m2kr.build", "--list"))
    run("m2kr.images", "pack", "--data", data, "--tasks", "OKVQA,WIT", "--images", raw, "--quiet")
    run("m2kr.check", data, "--images", raw, "--report", out / "check.json", "--quiet")
    states = subprocess.run([sys.executable, "-c", STATES], check=True, stdout=subprocess.PIPE, text=True).stdout
    (texts / "states.json").write_text(states)
    shutil.copytree("data_cards", out / "data_cards")


def content(path: Path, root: Path) -> bytes:
    """Return a file's content without what a repeated run may change, nor the record's own place."""
    if path.name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    if path.suffix not in (".json", ".html", ".txt", ".md", ".csv", ".jsonl"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8").replace(str(root), "RECORD")
    if path.suffix == ".json" and "manifest" not in path.name and "croissant" not in path.name:
        return json.dumps(without_times(json.loads(text)), sort_keys=True).encode()
    text = re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?", "DATE", text)
    return re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", text).encode()


def without_times(value: object) -> object:
    """Return JSON without the keys of `VOLATILE`, at any depth."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in VOLATILE}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def compare(before: Path, after: Path) -> int:
    """Print which files differ, and how many are equal in each folder; return 1 where any differs."""
    differing, equal = 0, dict[str, int]()
    names = {path.relative_to(root) for root in (before, after) for path in root.rglob("*") if path.is_file()}
    for name in sorted(names):
        pair = [root / name for root in (before, after)]
        if not all(path.is_file() for path in pair):
            print(f"only in {before if pair[0].is_file() else after}: {name}")
            differing += 1
            continue
        hashes = [hashlib.sha256(content(path, path.parents[len(name.parts) - 1])).digest() for path in pair]
        if hashes[0] == hashes[1]:
            equal[name.parts[0]] = equal.get(name.parts[0], 0) + 1
        else:
            print(f"differs: {name}")
            differing += 1
    for folder, count in sorted(equal.items()):
        print(f"{folder}: {count:,} files equal")
    print(f"{differing:,} files differ")
    return int(differing > 0)


def main() -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    maker = verbs.add_parser("make", help="run everything with the code of the current folder")
    maker.add_argument("out", type=Path)
    maker.add_argument("--results", type=Path, help="make the site of these results instead of the new ones")
    comparer = verbs.add_parser("compare", help="say what differs between two records")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        return compare(arguments.before, arguments.after)
    make(arguments.out, arguments.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
