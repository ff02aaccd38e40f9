"""Late-interaction scores: of all pairs, and of a training batch with gradients."""

from __future__ import annotations

from typing import Any

import torch

from m2kr.errors import M2KRError


def maxsim(
    query_embeddings: torch.Tensor, document_embeddings: torch.Tensor, document_mask: torch.Tensor
) -> torch.Tensor:
    """Return the score of every query with every passage (ColBERT, section 3.3).

    The sum, over a query's vectors, of the greatest dot product with a passage's vectors that count.

    Args:
        query_embeddings: ``(queries, m, dim)``; zero vectors add nothing.
        document_embeddings: ``(documents, n, dim)``.
        document_mask: ``(documents, n)``, true for vectors that count. A passage with none scores minus infinity.

    Returns:
        ``(queries, documents)`` float32, whatever the type of the vectors. All dot products are in memory at once,
        which suits a training batch; `m2kr.search.search` is for collections.

    Raises:
        M2KRError: the shapes do not fit each other.
    """
    if (
        query_embeddings.ndim != 3
        or document_embeddings.ndim != 3
        or query_embeddings.shape[2] != document_embeddings.shape[2]
        or document_embeddings.shape[:2] != document_mask.shape
    ):
        raise M2KRError(
            f"queries {tuple(query_embeddings.shape)}, documents {tuple(document_embeddings.shape)} and document mask "
            f"{tuple(document_mask.shape)} must be (queries, m, dim), (documents, n, dim) and (documents, n)."
        )
    similarity = torch.einsum("qid,pjd->qpij", query_embeddings.float(), document_embeddings.float())
    hidden = ~document_mask.to(similarity.device, torch.bool)
    return similarity.masked_fill(hidden[None, :, None, :], float("-inf")).amax(dim=-1).sum(dim=-1)


def batch_maxsim(
    queries_embeddings: torch.Tensor,
    documents_embeddings: torch.Tensor,
    queries_mask: torch.Tensor,
    documents_mask: torch.Tensor,
) -> torch.Tensor:
    """Return `maxsim` of a training batch, with a backward pass that follows the greatest products alone.

    Of all dot products of a query's vector with a passage's, one has a gradient. Which one is remembered, so that
    neither pass holds more than one passage's products, and the backward pass multiplies no zeros. The arguments are
    named as those of sentence-transformers' ``colbert_scores``, which this stands in for.

    Args:
        queries_embeddings: ``(queries, m, dim)``.
        documents_embeddings: ``(queries, group, n, dim)``, the passages that each query brings.
        queries_mask: ``(queries, m)``, true or 1 for vectors that count.
        documents_mask: ``(queries, group, n)``, the same. A passage with none scores -1e9.

    Returns:
        ``(queries, queries * group)`` float32.
    """
    documents = documents_embeddings.flatten(0, 1)
    mask = documents_mask.flatten(0, 1).bool()
    best: torch.Tensor = _Greatest.apply(queries_embeddings, documents, mask)  # type: ignore[no-untyped-call]
    scores = (best * queries_mask[:, None]).sum(dim=-1)
    return scores.masked_fill(~mask.any(dim=1), _NOTHING)


_NOTHING = -1e9  # as colbert_scores has it: below all others, and a number, which a loss can be made of


class _Greatest(torch.autograd.Function):
    """The greatest product of each vector of queries with the vectors of a passage, ``(queries, documents, m)``."""

    @staticmethod
    def forward(ctx: Any, queries: torch.Tensor, documents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        count, m, dim = queries.shape
        vectors = queries.reshape(count * m, dim)
        best = torch.zeros((len(documents), len(vectors)), dtype=torch.float32, device=queries.device)
        place = torch.zeros((len(documents), len(vectors)), dtype=torch.int64, device=queries.device)
        for row, (document, counts) in enumerate(zip(documents, mask, strict=True)):
            kept = counts.nonzero().squeeze(1)
            if len(kept):
                values, found = (document[kept] @ vectors.T).max(dim=0)
                best[row], place[row] = values.float(), kept[found]
        ctx.save_for_backward(queries, documents, place)
        return best.view(len(documents), count, m).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        queries, documents, place = ctx.saved_tensors
        count, m, dim = queries.shape
        vectors = queries.reshape(count * m, dim).float()
        weights = gradients[0].transpose(0, 1).reshape(len(documents), count * m, 1)
        to_queries = torch.zeros_like(vectors)
        to_documents = torch.zeros(documents.shape, dtype=torch.float32, device=documents.device)
        for row, found in enumerate(place):
            to_queries += documents[row][found] * weights[row]
            to_documents[row].index_add_(0, found, vectors * weights[row])
        return to_queries.view(count, m, dim).to(queries.dtype), to_documents.to(documents.dtype), None
