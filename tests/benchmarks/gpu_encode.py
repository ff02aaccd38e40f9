"""How fast PreFLMR encodes on a GPU, beside the least time its matrix products can take there.

    python -m tests.benchmarks.gpu_encode                          # ViT-B, L and G, bfloat16, on the GPU; minutes
    python -m tests.benchmarks.gpu_encode --device cpu --dtype float32 --tiny   # tiny models, to try the script

The models are of the official sizes, with random weights and a made-up vocabulary. The floor is the number of floating
point operations of the very same call, padding included, over the best rate that a square product of matrices of the
same type reached just before. (On a CPU torch does not count attention, about a hundredth of it here.) The rest of the
time is tokenization, launches of kernels, everything that is no matrix product, and copies to and from the GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from baselines.common.batching import device_of, dtype_of
from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.configuration import TextConfig, VisionConfig
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, DocumentTokenizer, QueryTokenizer
from m2kr.common.files import write_json
from m2kr.errors import run_command
from tests.baselines.preflmr.make_fixtures import WORDS, configuration, write_tokenizers

VISION = {
    "ViT-B": VisionConfig(),
    "ViT-L": VisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        projection_dim=768,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    ),
    "ViT-G": VisionConfig(
        hidden_size=1664,
        intermediate_size=8192,
        projection_dim=1280,
        num_hidden_layers=48,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
    ),
}
PARAMETERS = {"ViT-B": 326_725_504, "ViT-L": 543_170_176, "ViT-G": 2_084_569_984}


def make_model(name: str, device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Any:
    """Return a PreFLMR of an official size (or a tiny one), with random weights."""
    if tiny:
        config = PreFLMRConfig.from_json(configuration("preflmr"))
    else:
        config = PreFLMRConfig(
            vision_config=VISION[name],
            mapping=replace(TextConfig(), num_hidden_layers=1),
            mask_instruction_token=":",
            separate_query_and_context_text_encoder=True,
        )
    with TemporaryDirectory() as folder, torch.device("meta"):
        write_tokenizers(Path(folder))
        documents = DocumentTokenizer(Path(folder) / DOCUMENT_FOLDER, config)
        documents.maxlen = config.text_config.max_tokens
        model = PreFLMR(config, QueryTokenizer(Path(folder) / QUERY_FOLDER, config), documents)
    if not tiny:
        assert sum(item.numel() for item in model.parameters()) == PARAMETERS[name]
    model.to_empty(device=device)
    model.to(dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for item in model.parameters():
            item.normal_(0, 0.02, generator=generator)
        for key, item in model.named_buffers():
            item.copy_(torch.arange(item.shape[-1], device=device) if key.endswith("position_ids") else item * 0)
    return model.eval()


def make_passages(count: int) -> list[str]:
    """Return passages of 100 words, of 1 to 4 tokens each: about 130 tokens."""
    draw = np.random.default_rng(0)
    words = [word for word in WORDS.split() if not word.startswith("##")]
    endings = draw.choice(["", "", "", "", "s", ","], size=(count, 100))
    return [
        " ".join(words[number] + end for number, end in zip(numbers, own, strict=True))
        for numbers, own in zip(draw.integers(0, len(words), (count, 100)), endings, strict=True)
    ]


def matrix_rate(device: torch.device, dtype: torch.dtype, sizes: Sequence[int]) -> float:
    """Return the best floating point operations a second of square products."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * size**3 / fastest(lambda a=a, b=b: a @ b, device, rounds=10))
    return best


def fastest(run: Callable[[], Any], device: torch.device, *, rounds: int) -> float:
    """Return the least seconds of a call, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def wait(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(run: Callable[[], Any], count: int, device: torch.device, rate: float, rounds: int) -> dict[str, Any]:
    """Return what one kind of input costs: times, operations, the floor and the profile's first entries."""
    with FlopCounterMode(display=False) as counter:
        run()
    operations = counter.get_total_flops()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = fastest(run, device, rounds=rounds)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        run()
        wait(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    entries = sorted(profiled.key_averages(), key=lambda entry: getattr(entry, key), reverse=True)
    total = sum(getattr(entry, key) for entry in entries) or 1.0
    return {
        "count": count,
        "seconds": seconds,
        "per_second": count / seconds,
        "operations": operations,
        "floor_seconds": operations / rate,
        "memory": memory,
        "profile": [
            {"name": entry.key[:90], "share": getattr(entry, key) / total, "calls": entry.count}
            for entry in entries[:8]
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table for RESULTS.md and the profiles; with ``--out`` write all of it as JSON."""
    parser = argparse.ArgumentParser(description="Passages and images a second of PreFLMR, and their floor.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--models", default="ViT-B,ViT-L,ViT-G", help="comma-separated")
    parser.add_argument("--passages", type=int, default=8192)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models and few inputs, to try this script")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    device, dtype = device_of(arguments.device), dtype_of(arguments.dtype)
    if arguments.tiny:
        arguments.passages, arguments.images, arguments.batch_size, arguments.rounds = 16, 8, 8, 1
    rate = matrix_rate(device, dtype, (256, 512) if arguments.tiny else (4096, 8192, 16384))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {arguments.dtype}: products at {rate / 1e12:.1f} TFLOP/s")
    print(f"{arguments.passages} passages, {arguments.images} images, batches of {arguments.batch_size}\n")
    print("| model | passages/s | times the floor | images/s | times the floor |\n| --- | ---: | ---: | ---: | ---: |")
    rows = []
    for kind in arguments.models.split(","):
        model = make_model(kind, device, dtype, tiny=arguments.tiny)
        passages = make_passages(arguments.passages)
        shape = model.pictures.pixels.shape
        pixels = np.random.default_rng(1).integers(0, 256, (arguments.images, *shape), dtype=np.uint8)
        queries = [{"text": "show the passage of this picture: what is it", "image": image} for image in pixels]
        row: dict[str, Any] = {"model": kind}
        for what, encode, inputs in (
            ("passages", model.encode_document, passages),
            ("images", model.encode_query, queries),
        ):
            run: Callable[[], Any] = lambda encode=encode, inputs=inputs: encode(inputs, arguments.batch_size)  # noqa: E731
            row[what] = measure(run, len(inputs), device, rate, arguments.rounds)
        rows.append(row)
        cells = [
            f"{row[what]['per_second']:,.0f} | {row[what]['seconds'] / row[what]['floor_seconds']:.2f}"
            for what in ("passages", "images")
        ]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
        del model
    for row in rows:
        for what in ("passages", "images"):
            print(f"\n{row['model']}, {what}: first entries of the profile")
            for entry in row[what]["profile"]:
                print(f"  {entry['share']:6.1%} {entry['calls']:7,} x {entry['name']}")
    if arguments.out:
        settings = {key: str(value) for key, value in vars(arguments).items()}
        write_json(arguments.out, {"device": name, "matrix_rate": rate, "settings": settings, "models": rows})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
