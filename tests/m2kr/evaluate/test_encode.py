"""`m2kr.evaluate.encode`: stored embeddings that are found again."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2kr.common.work import Note
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode
from m2kr.evaluate.encode import Encoder, texts_key
from m2kr.evaluate.options import EncodeOptions
from m2kr.search.ragged import as_tensor


class Lengths:
    """One vector a text: its length and 1. It keeps what it is given."""

    name = "lengths"
    reads = frozenset({"text"})
    vectors = "single"
    reads_instructions = False

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.given: list[str] = []
        self.fail_at = -1

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self.encode_document(inputs, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        if len(self.given) == self.fail_at:
            raise ZeroDivisionError
        self.given.extend(inputs)
        return np.array([[len(text), 1] for text in inputs], dtype=np.float32)


TEXTS = ["a" * number for number in range(1, 26)]


def test_kept_embeddings_are_found_again(tmp_path: Path) -> None:
    first = Lengths()
    made = Encoder(first, tmp_path / "kept").passages(TEXTS, tmp_path / "work", "X")
    vectors = np.array(made.store.load())
    assert not made.reused
    Encoder(first, tmp_path / "kept").keep(tmp_path / "work")
    again = Lengths()
    found = Encoder(again, tmp_path / "kept").passages(TEXTS, tmp_path / "other", "X")
    assert (found.reused, found.seconds, found.memory) == (True, made.seconds, made.memory)
    assert not again.given
    np.testing.assert_array_equal(found.store.load(), vectors)
    np.testing.assert_array_equal(vectors, [[len(text), 1] for text in TEXTS])
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(Lengths(), tmp_path / "kept", EncodeOptions(quiet=True))
    encoder.passages(["a", "bb"], tmp_path / "work", "OKVQA")

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(M2KRError, match=r"kept/passages-\w+ could not be written: No space left"):
        encoder.keep(tmp_path / "work")


@pytest.mark.parametrize("what", ["texts", "order", "settings", "name", "dtype", "device", "store"])
def test_embeddings_of_anything_else_are_not_found(tmp_path: Path, what: str) -> None:
    made = Encoder(Lengths(), tmp_path / "kept")
    made.passages(TEXTS, tmp_path / "work", "X")
    made.keep(tmp_path / "work")
    other, texts = Lengths(), TEXTS
    if what == "texts":
        texts = [*TEXTS[:-1], "b" * 25]
    elif what == "order":
        texts = TEXTS[::-1]
    elif what == "settings":
        other.settings = {"layers": 1}
    elif what == "name":
        other.name = "other"
    options: dict[str, Any] = {"dtype": "float16", "device": "cuda:0", "store_dtype": "int8"}
    options = {name: value for name, value in options.items() if name.startswith(what)}
    found = Encoder(other, tmp_path / "kept", EncodeOptions(**options)).passages(texts, tmp_path / "work", "X")
    assert not found.reused
    assert other.given == texts


def test_the_batch_size_and_the_number_of_the_device_do_not_matter(tmp_path: Path) -> None:
    made = Encoder(Lengths(), tmp_path / "kept", EncodeOptions(batch_size=1, device="cuda:0"))
    made.passages(TEXTS, tmp_path / "work", "X")
    made.keep(tmp_path / "work")
    other = Encoder(Lengths(), tmp_path / "kept", EncodeOptions(batch_size=9, device="cuda:1"))
    assert other.passages(TEXTS, tmp_path / "work", "X").reused


def test_passages_are_stored_in_a_type_of_their_own_and_queries_in_that_of_the_model(
    built: Path, tmp_path: Path
) -> None:
    data = load_task("MSMARCO", built)
    asked = []
    for store_dtype in (None, "bfloat16", "int8"):
        encoder = Encoder(Lengths(), tmp_path / "kept", EncodeOptions(dtype="float16", store_dtype=store_dtype))  # type: ignore[arg-type]
        passages = encoder.passages(TEXTS, tmp_path / "work", "X")
        assert passages.store.dtype == store_dtype or store_dtype is None
        vectors = as_tensor(passages.store.load()).float().numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors, [[len(text), 1] for text in TEXTS], atol=25 / 254)
        queries = encoder.queries(data, None, tmp_path / "work")
        assert queries.store.dtype == "float16"
        asked.append(queries.reused)
        encoder.keep(tmp_path / "work")
    assert asked == [False, True, True]  # queries do not depend on how passages are stored
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "kept").iterdir()) == ["passages"] * 3 + ["queries"]


def test_unfinished_embeddings_are_not_kept_and_their_time_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 10)
    killed = Lengths()
    killed.fail_at = 20
    encoder = Encoder(killed, tmp_path / "kept")
    with pytest.raises(ZeroDivisionError):
        encoder.passages(TEXTS, tmp_path / "work", "X")
    before = Note(tmp_path / "work" / "passages" / "encoding.json")
    assert before.rows == 20
    encoder.keep(tmp_path / "work")
    assert not (tmp_path / "kept").exists()
    again = Lengths()
    made = Encoder(again, tmp_path / "kept").passages(TEXTS, tmp_path / "work", "X")
    assert killed.given + again.given == TEXTS
    assert made.seconds > before.seconds > 0
    assert not made.reused


@pytest.mark.parametrize(
    ("vectors", "returned", "facts"),
    [
        ("single", [[1.0, 2.0]], "a list of other things"),
        ("single", [np.ones(2)], "a list of other things"),
        ("single", np.ones(1), r"an array of shape \(1,\)"),
        ("multi", np.ones((1, 2)), r"an array of shape \(1, 2\)"),
        ("multi", [np.ones(2)], "a list of other things"),
    ],
)
def test_a_retriever_returns_what_it_says(tmp_path: Path, vectors: str, returned: Any, facts: str) -> None:
    retriever: Any = Lengths()
    retriever.vectors, retriever.encode_document = vectors, lambda inputs, batch_size: returned
    with pytest.raises(M2KRError, match=f"lengths returned {facts}.*'{vectors}'.* shape"):
        Encoder(retriever, tmp_path / "kept", EncodeOptions(quiet=True)).passages(["a"], tmp_path / "work", "MSMARCO")


def test_instructions_end_as_the_retriever_wants_it(built: Path, tmp_path: Path) -> None:
    retriever: Any = Lengths()
    retriever.reads_instructions, retriever.instruction_end = True, "<END>"
    data = load_task("MSMARCO", built, limit=1)
    Encoder(retriever, tmp_path / "kept", EncodeOptions(quiet=True)).queries(data, None, tmp_path / "work")
    instruction, question = data.queries.select("instruction", "question").row(0)
    assert retriever.given == [f"{instruction.removesuffix(':')}<END> {question}"]


def test_a_key_tells_where_one_text_ends() -> None:
    keys = [
        texts_key(["ab", "c"]),
        texts_key(["a", "bc"]),
        texts_key(["abc"]),
        texts_key(["abc"], []),
        texts_key([], ["abc"]),
        texts_key(["c", "ab"]),
        texts_key(["ab"], ["c"]),
        texts_key(["\ud800"]),
    ]
    assert len(set(keys)) == len(keys)
    assert texts_key(iter(["ab", "c"])) == keys[0]
