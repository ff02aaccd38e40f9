"""Passages a second on the CPU: batches of like length, and filled up to 512 tokens as by the official indexer.

    python -m pytest tests/benchmarks/test_encode.py --override-ini addopts= --import-mode=importlib -s

A BERT-base with random weights, float32, two threads, passages of 100 words. Both ways run one after the other, since
on a shared machine only their ratio means something.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, DocumentTokenizer, QueryTokenizer
from tests.baselines.preflmr.make_fixtures import write_tokenizers
from tests.benchmarks.gpu.models import make_passages

PASSAGES, PADDED, OFFICIAL_LENGTH = 256, 48, 512


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    write_tokenizers(folder)
    config = PreFLMRConfig(use_vision_encoder=False, query_concat_output_from_vision_encoder=False)
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    documents = DocumentTokenizer(folder / DOCUMENT_FOLDER, config)
    documents.maxlen = OFFICIAL_LENGTH
    yield PreFLMR(config, QueryTokenizer(folder / QUERY_FOLDER, config), documents).eval()
    torch.set_num_threads(before)


def padded(model: Any, texts: list[str]) -> list[np.ndarray]:
    """Encode passages as the official indexer does, 8 at a time."""
    found = []
    with torch.inference_mode():
        for first in range(0, len(texts), 8):
            ids, attention = model.document_tokenizer(texts[first : first + 8], padding="max")
            vectors = model.document(ids, attention)
            found += [own[mask].numpy() for own, mask in zip(vectors.embeddings, vectors.mask, strict=True)]
    return found


def test_passages_of_like_length(model: Any, benchmark: Any) -> None:
    texts = make_passages(PASSAGES)
    tokens = model.document_tokenizer(texts).attention_mask.sum(dim=1)
    model.encode_document(texts[:8])
    padded(model, texts[:8])
    bucketed = benchmark.pedantic(model.encode_document, args=(texts,), rounds=1)
    seconds = benchmark.stats.stats.min
    start = time.perf_counter()
    expected = padded(model, texts[:PADDED])
    rate, slow_rate = PASSAGES / seconds, PADDED / (time.perf_counter() - start)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(bucketed, expected, strict=False))
    print(
        f"\n{PASSAGES} passages of {tokens.min()} to {tokens.max()} tokens (mean {tokens.float().mean():.0f}): "
        f"{rate:.2f} a second in batches of like length, {slow_rate:.2f} filled up to {OFFICIAL_LENGTH} tokens, "
        f"{rate / slow_rate:.2f} times as many; largest difference {difference:.1e}"
    )
    assert difference < 1e-5
    assert rate >= 3 * slow_rate
