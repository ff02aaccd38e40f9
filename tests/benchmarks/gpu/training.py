"""One update of each training stage at the batch sizes of its settings, with PreFLMR ViT-L.

That is copies to the GPU, forwards, backwards and the optimiser. Batches are made beforehand, from made-up texts and
noise; the loss and what is trained are those of `baselines.preflmr.train`. Whether losses are right is looked at in the
section ``evaluation``; here they only have to be numbers, and the weights to move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from tests.benchmarks.gpu.bench import Bench, Part
from tests.benchmarks.gpu.encoding import operations_of
from tests.benchmarks.gpu.models import make_model, make_passages, make_queries

_TINY = {"batch_size": 4, "accumulate": 1, "mini_batch": 2, "negatives": 1, "mined": 0}


def parts(bench: Bench) -> dict[str, Part]:
    """The four stages; of tiny ones, those that go different ways."""
    return {f"stage {stage}": partial(_measure, bench, stage) for stage in ((1, 2, 4) if bench.tiny else (1, 2, 3, 4))}


def _measure(bench: Bench, stage: int) -> dict[str, Any]:
    from accelerate.utils import convert_outputs_to_fp32
    from sentence_transformers import MultiVectorEncoder

    from baselines.common.settings import read_settings
    from baselines.preflmr.module import PreFLMRModule
    from baselines.preflmr.training.heads import ImageVectors
    from baselines.preflmr.training.stages import StageConfig, config_file, freeze
    from baselines.preflmr.training.trainer import loss_of

    bench.need(8, f"an update of stage {stage}")
    config = read_settings(StageConfig, config_file(stage), _TINY if bench.tiny else {})
    model = make_model("ViT-L", bench.device, torch.float32, tiny=bench.tiny)
    freeze(model, stage)
    model.missing_image = "none" if stage == 1 else "black"
    modules: list[Any] = [PreFLMRModule(model)]
    if not config.query_text:
        modules.append(ImageVectors())  # type: ignore[no-untyped-call]
    encoder = MultiVectorEncoder(modules=modules, device=str(bench.device))
    encoder.train()
    if config.precision == "bfloat16":  # as the trainer does it: the scores are of float32 vectors
        half = torch.autocast(bench.device.type, torch.bfloat16)
        encoder.forward = convert_outputs_to_fp32(half(encoder.forward))
    loss = loss_of(encoder, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=bench.cuda or None
    )
    size, groups = config.batch_size, 1 + config.negatives
    queries: list[Any] = make_queries(size, model.pictures.pixels.shape)
    if stage == 1:
        queries = [query["text"] for query in queries]
    texts = make_passages(size * groups)
    columns = [modules[0].preprocess(queries, task="query")]
    columns += [modules[0].preprocess(texts[group::groups], task="document") for group in range(groups)]
    if bench.cuda:
        columns = [_moved(column, lambda tensor: tensor.pin_memory()) for column in columns]
    losses: list[float] = []

    def update() -> None:
        total = torch.zeros((), device=bench.device)
        for _ in range(config.accumulate):
            batch = [_moved(column, lambda tensor: tensor.to(bench.device, non_blocking=True)) for column in columns]
            own = loss(batch) / config.accumulate
            own.backward()
            total += own.detach()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))

    before = [parameter.detach().double().sum() for parameter in trained]
    warm = bench.once(update)
    found = bench.figure(
        update,
        count=size * config.accumulate,
        unit="queries",
        dtype=torch.bfloat16 if config.precision == "bfloat16" else torch.float32,
        operations=operations_of(update),
        batch=size,
        rounds=1 if bench.tiny else 3,
        warm=warm,
        accumulate=config.accumulate,
        mini_batch=config.mini_batch,
        passages=size * groups * config.accumulate,
        trained_parameters=sum(parameter.numel() for parameter in trained),
    )
    moved = sum(
        bool(parameter.detach().double().sum() != sum_) for parameter, sum_ in zip(trained, before, strict=True)
    )
    return {**found, "losses": losses, "moved": moved, "passed": all(map(math.isfinite, losses)) and moved > 0}


def _moved(features: Mapping[str, Any], move: Any) -> dict[str, Any]:
    return {key: move(value) if isinstance(value, torch.Tensor) else value for key, value in features.items()}
