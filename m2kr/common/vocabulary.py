"""Whether a tokenizer makes only token ids that its model has an embedding of."""

from __future__ import annotations

from typing import Any

from m2kr.errors import M2KRError


def check_vocabulary(tokenizer: Any, known: int | None, what: str) -> None:
    """Refuse a tokenizer with ids that its model does not know: the first text with one of them would end the run.

    Args:
        tokenizer: of transformers or of tokenizers.
        known: ids that the model knows, from 0 on; None where that cannot be told.
        what: names the tokenizer in the message.

    Raises:
        M2KRError: it has others.
    """
    last = max(tokenizer.get_vocab().values(), default=-1)
    if known is not None and last >= known:
        raise M2KRError(
            f"{what} has token ids up to {last:,}, and the model knows {known:,} tokens: they do not belong together. "
            "Get the model's files again, all of one download."
        )


def embedded_tokens(model: Any) -> int | None:
    """Return how many token ids a model of transformers, or a table of embeddings, knows; None where nothing tells."""
    reader = getattr(model, "text_model", model)  # of the two halves of CLIP and its like, which have a table each
    table = reader.get_input_embeddings() if hasattr(reader, "get_input_embeddings") else reader
    found = getattr(table, "num_embeddings", None)
    return found if isinstance(found, int) else None
