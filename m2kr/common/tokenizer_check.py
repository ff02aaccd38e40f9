"""Whether a tokenizer is that of its files, and makes only token ids that its model has an embedding of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2kr.errors import M2KRError, first_line

_FILE = "tokenizer.json"

_PROBES = ("An X-ray, 1984", "\u00c9tude n\u00ba 3: \u6771\u4eac", "what is the owl's eye? (a) b&w photo_2.jpg")
# Capitals, accents, signs within and beside words, digits, words without spaces: what tokenizers differ in.


def check_tokenizer(tokenizer: Any, known: int | None, what: str) -> None:
    """Refuse a tokenizer that does not belong to its model.

    It makes ids that the model does not know: the first text with one of them would end the run. Or it reads texts
    otherwise than its own ``tokenizer.json`` says. Many classes of transformers 5 take the vocabulary from that file
    and make most other parts anew, as the class has them: where the template holds a marker, or words are cut in a way
    of the model's own, all vectors would be others than its authors'.

    What ``tokenizer_config.json`` could change before, too, is let be: how a normalizer of BERT treats capitals,
    accents and Chinese, whether a space is put in front, and whether a text begins and ends with tokens. So are the
    capitals of SigLIP 2, whose class makes texts lower case, as in its training, where files of it do not.

    Args:
        tokenizer: of transformers or of tokenizers. Only one of transformers that was loaded from a folder with such a
            file is compared with it.
        known: ids that the model knows, from 0 on; None where that cannot be told.
        what: names the tokenizer in the message.

    Raises:
        M2KRError: it makes other ids, or reads texts otherwise; or the file is damaged.

    Source: transformers 5.23, ``TokenizersBackend.convert_to_native_format``; findings/transformers_tokenizer_json.sh.
    """
    last = max(tokenizer.get_vocab().values(), default=-1)
    if known is not None and last >= known:
        raise M2KRError(
            f"{what} has token ids up to {last:,}, and the model knows {known:,} tokens: they do not belong together. "
            "Get the model's files again, all of one download."
        )
    name, backend = getattr(tokenizer, "name_or_path", ""), getattr(tokenizer, "backend_tokenizer", None)
    if name and backend is not None and (Path(name) / _FILE).is_file():
        _check_file(backend, Path(name), what, type(tokenizer).__name__)


def _check_file(backend: Any, folder: Path, what: str, kind: str) -> None:
    from tokenizers import Tokenizer

    try:
        stated = Tokenizer.from_file(str(folder / _FILE))
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except FileNotFoundError:
        config = {}
    except Exception as error:  # tokenizers has none of its own
        raise M2KRError(f"{what}: its {_FILE} cannot be read ({first_line(error)}). Get it again.") from error
    for part, name in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "ByteLevel")):
        if type(getattr(stated, part)).__name__ == type(getattr(backend, part)).__name__ == name:
            setattr(stated, part, getattr(backend, part))
    ends = not {"add_bos_token", "add_eos_token"} & set(config)
    for text in map(str.lower, _PROBES) if kind == "Siglip2Tokenizer" else _PROBES:
        wanted, found = (_tokens(each, text, ends) for each in (stated, backend))
        if wanted != found:
            raise M2KRError(
                f"{what}: transformers makes {found} of {text!r}, and its {_FILE} says {wanted}: "
                f"{kind} does not take all of it, so the vectors may be others than the model's. Where the file is "
                'right, name a copy of the folder with "tokenizer_class": "PreTrainedTokenizerFast" in its '
                f"tokenizer_config.json; where {kind} is, a copy in which it has written its files: "
                "AutoTokenizer.from_pretrained(COPY).save_pretrained(COPY)."
            )


def _tokens(tokenizer: Any, text: str, ends: bool) -> list[str]:
    """Return the tokens of a text, neither cut off nor filled up."""
    cut = tokenizer.truncation
    tokenizer.no_truncation()
    try:
        encoding = tokenizer.encode(text, add_special_tokens=ends)
    finally:
        if cut is not None:
            tokenizer.enable_truncation(**cut)
    return [token for token, real in zip(encoding.tokens, encoding.attention_mask, strict=True) if real]


def embedded_tokens(model: Any) -> int | None:
    """Return how many token ids a model of transformers, or a table of embeddings, knows; None where nothing tells."""
    reader = getattr(model, "text_model", model)  # of the two halves of CLIP and its like, which have a table each
    table = reader.get_input_embeddings() if hasattr(reader, "get_input_embeddings") else reader
    found = getattr(table, "num_embeddings", None)
    return found if isinstance(found, int) else None
