"""How good a model is while it is trained: Recall@5 on valid splits, through the search of `m2kr.search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers.base.evaluation import BaseEvaluator

from baselines.common.batching import as_array, encode
from baselines.preflmr.training.batches import load_split
from baselines.preflmr.training.stages import StageConfig
from m2kr.dataset import TaskData, nano_subset
from m2kr.images.roots import ImageRoots
from m2kr.search.exact import search

_K = 5
_METRIC = f"Recall@{_K}"


class Validation(BaseEvaluator):
    """Evaluates a pipeline on some queries of valid splits.

    Args:
        splits: what to search for and in.
        batch_size: inputs encoded at once.
        instructions: whether queries come with their instruction in front.
        end: how an instruction ends; see `m2kr.dataset.query_text`.
    """

    def __init__(
        self, splits: Sequence[TaskData], batch_size: int, *, instructions: bool = True, end: str = ":"
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._splits, self._batch_size, self._instructions, self._end = splits, batch_size, instructions, end
        self.primary_metric = _METRIC

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, Any]:
        """Return Recall@5 of every task, as ``<TASK>_Recall@5``, and their mean, ``Recall@5``."""
        training = model.training
        model.eval()
        try:
            recalls = {split.task.key: self._recall(model, split) for split in self._splits}
        finally:
            model.train(training)
        return {
            **{f"{key}_{_METRIC}": recall for key, recall in recalls.items()},
            _METRIC: float(np.mean(list(recalls.values()))),
        }

    def _recall(self, model: Any, split: TaskData) -> float:
        texts = split.query_texts(instructions=self._instructions, end=self._end)
        images = split.task.reads_images

        def queries(rows: list[int]) -> list[Any]:
            return [{"text": texts[row], "image": split.query_image(row)} if images else texts[row] for row in rows]

        passages = split.passages["passage_content"].to_list()
        _, ranked = search(
            self._vectors(model, "query", queries, [1] * len(texts)),
            self._vectors(model, "document", lambda rows: [passages[row] for row in rows], list(map(len, passages))),
            _K,
        )
        ids = split.passages["passage_id"]
        hits = [
            not set(positives).isdisjoint(ids[row] for row in rows)
            for positives, rows in zip(split.qrels.values(), ranked.tolist(), strict=True)
        ]
        return float(np.mean(hits))

    def _vectors(
        self, model: Any, task: str, inputs: Callable[[list[int]], list[Any]], lengths: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Return what a pipeline makes of inputs: for each a float32 array ``(vectors, dim)`` of those that count.

        ``inputs`` is a function from row numbers to inputs, called batch by batch; by ``lengths`` like is put to like.
        """

        def run(rows: list[int]) -> list[npt.NDArray[np.float32]]:
            features = {
                key: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for key, value in model[0].preprocess(inputs(rows), task=task).items()
            }
            output = model(features, task=task)
            vectors, mask = output["token_embeddings"], output["attention_mask"].bool()
            return [as_array(own[kept]) for own, kept in zip(vectors, mask, strict=True)]

        return encode(run, lengths, self._batch_size)


def load_validation(config: StageConfig, data: str | Path, images: ImageRoots | None) -> list[TaskData]:
    """Load the valid splits of a run, cut to the sizes of its settings, the same each time.

    Raises:
        M2KRError: one is missing, or has pictures and no place for them is known.
    """
    splits = [
        nano_subset(
            load_split(key, data, "valid", images),
            seed=config.seed,
            queries=config.valid_queries,
            passages=config.valid_passages,
        )
        for key in config.validate
    ]
    for split in splits:
        if split.images is not None:
            split.images.fetch(split.image_paths)
    return splits
