"""Each family on a tiny random checkpoint, against what its authors compute; and the page that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, Qwen2VLProcessor

from baselines.encoders.template import TEMPLATES
from baselines.sentence_transformer import SentenceTransformerRetriever
from m2kr.errors import M2KRError
from m2kr.retriever import REGISTRY, Retriever, get_retriever
from tests.baselines.families.page import PAGE
from tests.baselines.families.rows import PASSAGES, ROWS, TEXTS, Row, measure
from tests.baselines.images import random_image
from tests.baselines.tampered import with_a_token_more
from tests.tolerance import assert_vectors_near

Folder = Callable[[str], Path]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.refused], ids=lambda row: row.checkpoint)
def test_a_family_gives_what_its_authors_compute(folders: Folder, row: Row) -> None:
    found = measure(row, folders(row.checkpoint))
    assert not found.refused
    assert found.reference < 2e-5
    assert found.similarity < 1e-4
    assert found.batch < 2e-5
    assert found.picture is None or found.picture > 1e-4
    assert min(found.text, found.prompt, found.instruction) > 1e-4
    for name in row.names:
        assert " and ".join(sorted(REGISTRY.records()[name].reads)) == found.reads
        assert REGISTRY.records()[name].vectors == found.vectors


@pytest.mark.parametrize("row", [row for row in ROWS if not row.refused], ids=lambda row: row.checkpoint)
def test_a_passage_with_a_picture_is_what_its_authors_compute(folders: Folder, row: Row) -> None:
    folder = folders(row.checkpoint)
    retriever = SentenceTransformerRetriever(checkpoint=str(folder), **row.options)
    assert retriever.reads_passage_images is ("image" in retriever.reads and retriever.vectors == "single")
    if not retriever.reads_passage_images:
        return
    assert row.reference is not None
    picture = random_image(0, (60, 90))
    found = retriever.encode_document([{"text": PASSAGES[1], "image": picture}, PASSAGES[0]])
    with torch.no_grad():
        if row.checkpoint in ("gme", "qwen3-vl-embedding", "qwen2_5-vl"):
            both = row.reference(folder, PASSAGES[1], picture, query=False)
        else:
            parts = [row.reference(folder, *part, query=False) for part in ((None, picture), (PASSAGES[1], None))]
            both = parts[0] + parts[1]
            both /= np.linalg.norm(both)
        wanted = [both, row.reference(folder, PASSAGES[0], None, query=False)]
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(("name", "of"), [(name, row.checkpoint) for row in ROWS for name in row.names])
def test_a_registered_name_loads_its_family_with_its_options(folders: Folder, name: str, of: str) -> None:
    folder = str(folders(of))
    named = get_retriever(name, checkpoint=folder)
    plain = SentenceTransformerRetriever(checkpoint=folder, **REGISTRY.records()[name].options)
    assert isinstance(named, Retriever)
    queries: list[Any] = [*TEXTS]
    if "image" in plain.reads:
        queries.append({"text": TEXTS[0], "image": random_image(0, (60, 90))})
    assert_vectors_near(named.encode_query(queries), plain.encode_query(queries))
    assert_vectors_near(named.encode_document(TEXTS), plain.encode_document(TEXTS))


@pytest.mark.parametrize("row", [row for row in ROWS if row.refused], ids=lambda row: row.checkpoint)
def test_what_would_be_measured_wrong_is_refused_in_one_true_line(folders: Folder, row: Row) -> None:
    line = measure(row, folders(row.checkpoint)).refused
    assert all(fact in line for fact in row.refused)
    assert "\n" not in line


@pytest.mark.parametrize("row", [row for row in ROWS if not row.refused], ids=lambda row: row.checkpoint)
def test_a_tokenizer_with_a_token_that_the_model_does_not_know_is_refused(
    folders: Folder, row: Row, tmp_path: Path
) -> None:
    folder = with_a_token_more(folders(row.checkpoint), tmp_path / row.checkpoint)
    with pytest.raises(M2KRError, match=r"token ids up to [\d,]+, and the model knows [\d,]+ tokens"):
        SentenceTransformerRetriever(checkpoint=str(folder), **row.options)


def test_the_page_has_every_family_and_every_registered_name() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert [line for line in lines if line in {row.family for row in ROWS}] == [row.family for row in ROWS]
    assert "NO" not in text.split()
    of_rows = {name for row in ROWS for name in row.names}
    assert {name for name, record in REGISTRY.records().items() if name not in REGISTRY.registered()} <= of_rows
    assert all(f"`{name}`" in text for name in of_rows)


@pytest.mark.parametrize("name", [*TEMPLATES, "qwen2_5-vl"])
def test_the_order_of_picture_and_text_counts(folders: Folder, name: str) -> None:
    query = [{"text": "an owl", "image": random_image(0, (60, 90))}]
    template = name if name in TEMPLATES else None
    first, last = (
        SentenceTransformerRetriever(checkpoint=str(folders(name)), template=template, image_first=order)
        for order in ("yes", "no")
    )
    assert abs(first.encode_query(query) - last.encode_query(query)).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "fact"),
    [
        ("gme", {"template": "gne"}, "Did you mean gme"),
        ("qwen3-vl-embedding", {"template": "gme"}, "qwen2_vl"),
        ("gme", {"template": "gme", "fusion": "text"}, "together: leave --option fusion out"),
        ("clip", {"image_first": "no"}, "apart: leave --option image_first out"),
        ("mean", {"fusion": "image"}, "leave --option fusion out"),
        ("gme", {"template": "gme", "prompt": ""}, "prompt is empty.*You are a helpful assistant"),
        ("qwen3-vl-embedding", {"template": "qwen3-vl-embedding", "prompt": " "}, "prompt is empty.*Represent"),
        ("gme", {"template": "gme", "pooling": "last"}, "leave --option pooling=last out"),
    ],
)
def test_an_option_that_has_no_effect_is_refused(
    folders: Folder, name: str, options: dict[str, str], fact: str
) -> None:
    with pytest.raises(M2KRError, match=f"(?i){fact}"):
        SentenceTransformerRetriever(checkpoint=str(folders(name)), **options)


def test_a_text_longer_than_the_template_takes_is_cut_at_its_end(folders: Folder) -> None:
    """Only what lies within 1,800 tokens of GME counts: the same vector, whatever stands behind."""
    retriever = SentenceTransformerRetriever(checkpoint=str(folders("gme")), template="gme")
    text = "The tower is tall. " * 100
    cut, longer, other = retriever.encode_document([text + "An owl.", text + "A red boat.", "A" + text])
    assert_vectors_near([cut], [longer])
    assert abs(cut - other).max() > 1e-4


@pytest.mark.parametrize(
    ("text", "size", "fact"),
    [("<|image_pad|>", (60, 90), "tokens for a picture"), ("owl", (2000, 4), "too narrow")],
)
def test_an_input_that_a_template_cannot_take_is_said(
    folders: Folder, text: str, size: tuple[int, int], fact: str
) -> None:
    retriever = SentenceTransformerRetriever(checkpoint=str(folders("gme")), template="gme")
    with pytest.raises(M2KRError, match=fact):
        retriever.encode_query([{"text": text, "image": random_image(0, size)}])


@pytest.mark.parametrize(("name", "template"), [("clip", None), ("qwen2_5-vl", None), ("gme", "gme")])
def test_pictures_are_prepared_by_pillow_whatever_is_installed(
    folders: Folder, name: str, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = AutoImageProcessor.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(options.get("backend"))
        return original.__func__(cls, *arguments, **options)

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", classmethod(from_pretrained))
    SentenceTransformerRetriever(checkpoint=str(folders(name)), template=template)
    assert asked == ["pil"]
    assert "video_processor" in Qwen2VLProcessor.get_attributes()  # as it was before
