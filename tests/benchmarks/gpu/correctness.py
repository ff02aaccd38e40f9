"""Whether the device computes what the CPU and the official implementation compute, before anything is timed.

Where a check allows more than float noise it is because the numbers are short: bfloat16 has eight bits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from baselines.minis import OneVectorRetriever, clip_mini, preflmr_mini
from baselines.preflmr import PreFLMR
from m2kr.common.devices import full_precision
from m2kr.common.json_input import read_json
from m2kr.search.exact import search
from m2kr.search.fused import fused_kernel, fused_scores
from m2kr.search.half import adds_up, again_plan, can_bound
from m2kr.search.ragged import Ragged
from m2kr.search.tiles import Plan, stacks_of
from tests.baselines.images import random_images
from tests.benchmarks.gpu.bench import Bench, Part, check, name_of
from tests.benchmarks.gpu.models import make_passages
from tests.benchmarks.gpu.results import Skipped
from tests.m2kr.search.items import random_items, whole_numbers
from tests.tolerance import assert_ranking, maxsim_table

OURS = Path(__file__).resolve().parents[2] / "baselines" / "preflmr" / "fixtures"

ALLOWED = {"float32": 1e-4, "bfloat16": 0.1}
"""How far a vector may be from the one wanted, of its length. TF32 in place of float32 would show: its unit is 5e-4."""

MINIS = {"preflmr-mini": preflmr_mini, "dpr-mini": OneVectorRetriever, "clip-mini": clip_mini}


def parts(bench: Bench) -> dict[str, Part]:
    """Golden values, search, the fused kernel, the small models."""
    found: dict[str, Part] = {}
    for origin in ("official", "ours"):
        for kind in ("preflmr", "flmr"):
            for dtype in ("float32", "bfloat16"):
                found[f"values of {kind} ({origin}), {dtype}"] = partial(_golden, bench, origin, kind, dtype)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for items in ("many vectors", "one vector"):
            found[f"search of {items} an item, {name_of(dtype)}"] = partial(_search, bench, dtype, items)
    for dim in (128,) if bench.tiny else (64, 128, 768):
        found[f"passages left out, dimension {dim}"] = partial(_left_out, bench, dim)
        found[f"what bounds suppose of the GPU, dimension {dim}"] = partial(_supposed, bench, dim)
    for dtype in (torch.float16, torch.bfloat16):
        found[f"fused kernel, {name_of(dtype)}"] = partial(_kernel, bench, dtype)
    for name in MINIS:
        for dtype in ("float32", "bfloat16"):
            found[f"{name} as on the CPU, {dtype}"] = partial(_mini, bench, name, dtype)
    return found


def _golden(bench: Bench, origin: str, kind: str, dtype: str) -> dict[str, Any]:
    """Compare a tiny checkpoint's vectors with those that the official implementation (or ours, on a CPU) computed."""
    if origin == "official" and bench.golden is None:
        raise Skipped("the official implementation's values are not beside the repository (--golden)")
    folder = (OURS if origin == "ours" or bench.golden is None else bench.golden) / kind
    model = PreFLMR.from_pretrained(folder, dtype=dtype, device=str(bench.device))
    expected = load_file(folder / "expected.safetensors")
    inputs = read_json(folder / "inputs.json", dict[str, Any], "list of inputs", "Get it again.")
    queries = [tensor.to(bench.device) for tensor in model.query_tokenizer(inputs["queries"])]
    texts = model.document_tokenizer(inputs["documents"], padding="max", maxlen=inputs["document_max_length"])
    documents = [tensor.to(bench.device) for tensor in texts]
    pixels = expected["query_pixel_values"].to(bench.device, model.dtype)
    with torch.inference_mode(), full_precision():
        query, document = model.query(*queries, pixels), model.document(*documents)
    off = max(
        _off(query.embeddings, expected["query_late_interaction_output"]),
        _off(document.embeddings, expected["context_late_interaction_output"]),
    )
    same = torch.equal(document.mask.cpu(), expected["context_mask"].bool())
    return check(off if same else float("nan"), ALLOWED[dtype], dtype=dtype)


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the greatest distance between a vector and the one wanted, whose length is 1 or 0."""
    return float((found.float().cpu() - wanted).norm(dim=-1).max())


def _search(bench: Bench, dtype: torch.dtype, items: str) -> dict[str, Any]:
    """Compare with the CPU: of whole numbers every bit, with many ties; of others what exact arithmetic gives."""
    rng = np.random.default_rng(5)
    few, k, dim = bench.tiny, 10, 128
    one = items == "one vector"
    lengths = [1] * 24 if one else [1, 70, 64, 0] if few else [*range(1, 330, 16), 64, 64, 0]
    longs = [1] * (300 if few else 3000) if one else rng.integers(0 if few else 1, 140, 60 if few else 600).tolist()
    off = 0.0
    for make in (whole_numbers, random_items):
        # The exact scores are computed on the processor, pair by pair in float64: of fewer passages.
        own = longs if make is whole_numbers else longs[:100]
        queries, passages = make(rng, lengths, dim), make(rng, own, dim)
        passages[7], passages[11] = passages[3], passages[3]  # ties that the row decides
        given = [[torch.from_numpy(item).to(dtype) for item in side] for side in (queries, passages)]
        sides: list[Any] = [torch.cat(side) if one else side for side in given]
        found = search(*sides, k, device=str(bench.device), memory=64 << 20)
        if make is whole_numbers:
            plain = search(*sides, k, device="cpu", way="plain")
            off = max(off, float(not np.array_equal(found[1], plain[1]) or not np.array_equal(found[0], plain[0])))
        else:
            exact = [[item.double().numpy() for item in side] for side in given]
            assert_ranking(found, k, *maxsim_table(*exact))
    by = "fused kernel" if fused_kernel(str(bench.device), dtype, dim) else "torch, float32"
    return check(off, 0.0, dtype=name_of(dtype), by=by)


def _left_out(bench: Bench, dim: int) -> dict[str, Any]:
    """Compare search in float32 with and without leaving passages out, bit for bit, also of numbers far apart."""
    rng = np.random.default_rng(7)
    device, few, off = str(bench.device), bench.tiny, 0.0
    for spread in (0, 3):
        queries = random_items(rng, [5, 40] if few else [32] * 100 + [320] * 20, dim)
        passages = random_items(rng, rng.integers(1, 140, 60 if few else 4000).tolist(), dim)
        passages = [item * np.float32(10.0 ** rng.uniform(-spread, spread)) for item in passages]
        passages[7], passages[11] = passages[3], passages[3]
        plain, bounded = (search(queries, passages, 10, device=device, way=way) for way in ("plain", "bounded"))  # type: ignore[arg-type]
        off = max(off, *(float((mine != theirs).sum()) for mine, theirs in zip(plain, bounded, strict=True)))
    return check(off, 0.0, dtype="float32", by="float16" if can_bound(device, dim) else "the CPU's way")


def _supposed(bench: Bench, dim: int) -> dict[str, Any]:
    """Whether tensor cores add up as exactly, and float32 products are as regular, as `m2kr.search.half` supposes."""
    device = str(bench.device)
    if not can_bound(device, dim):
        raise Skipped("there is no GPU that multiplies float16 into float32")
    broken = []
    for longest in (1, 32, 320):
        asked = Ragged.from_list([np.ones((longest, dim), np.float32)] * 400)
        stacks = stacks_of(asked, 1 << 30, "cuda")
        plan = Plan.within(1 << 30, stacks, asked, device)
        with full_precision():
            fine = (
                adds_up(device, plan, len(stacks[0].queries), longest),
                again_plan(device, plan, stacks[0].columns(plan.product_vectors)) is not None,
            )
        broken += [f"{name}, queries of {longest}" for name, one in zip(("sums", "bits"), fine, strict=True) if not one]
    return check(float(len(broken)), 0.0, note="; ".join(broken) or "sums and bits are as supposed")


def _kernel(bench: Bench, dtype: torch.dtype) -> dict[str, Any]:
    """Compare the kernel with torch in float32, of the same vectors, and time both on a tile."""
    kernel = fused_kernel(str(bench.device), dtype, 128)
    if kernel is None:
        raise Skipped("there is no CUDA GPU, or late-interaction-kernels is not installed")
    draw = torch.Generator().manual_seed(0)
    pieces, tile = (
        torch.nn.functional.normalize(torch.randn(*shape, 128, generator=draw), dim=-1).to(dtype).to(bench.device)
        for shape in ((64, 5, 64), (500, 130))
    )

    def plain() -> torch.Tensor:
        flat = pieces.flatten(0, 2).float()
        scores = torch.stack([(passage.float() @ flat.T).amax(0) for passage in tile])
        return scores.view(len(tile), len(pieces), -1).sum(2)

    wanted, found = plain(), fused_scores(kernel, pieces, tile)
    # 320 products of 128 numbers each, of vectors of length 1, added up in another order.
    allowed = 320 * (128 + 320) * 2.0**-24
    times = {
        "kernel": bench.timed(lambda: fused_scores(kernel, pieces, tile)),
        "torch": bench.timed(plain),
    }
    return check(float((wanted - found).abs().max()), allowed, dtype=name_of(dtype), seconds=times)


def _mini(bench: Bench, name: str, dtype: str) -> dict[str, Any]:
    """Compare a small model's vectors of queries with pictures, and of passages, with those it has on the CPU."""
    count = 8 if bench.tiny else 64
    queries = [
        {"text": f"Find the passage of this picture: what is it, number {row}?", "image": image}
        for row, image in enumerate(random_images(count))
    ]
    passages = make_passages(count)
    sides = []
    for device, kind in (("cpu", "float32"), (str(bench.device), dtype)):
        model = MINIS[name](device=device, dtype=kind)
        with full_precision():
            found = [model.encode_query(queries), model.encode_document(passages)]
        sides.append([[np.atleast_2d(own) for own in side] for side in found])
    off = 0.0
    for wanted, found in zip(*sides, strict=True):
        for one, other in zip(wanted, found, strict=True):
            lengths = np.linalg.norm(one, axis=1)
            off = max(off, float((np.linalg.norm(one - other, axis=1) / np.maximum(lengths, 1e-9)).max()))
    return check(off, ALLOWED[dtype], dtype=dtype, queries=count, passages=count)
