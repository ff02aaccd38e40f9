"""The made-up Wikipedia."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.world import World
from tests.conftest import SCALE
from tests.m2kr.synthetic.reading import blocks_by_title, lines, table, tsv


def test_wikipedia_parses_as_csv_and_holds_whole_articles(world: Path) -> None:
    rows = table(world / "wikipedia" / "psgs_w100.tsv", "\t")
    assert list(rows[0]) == ["id", "text", "title"]
    assert [int(row["id"]) for row in rows] == list(range(1, len(rows) + 1))
    known, made_of = blocks_by_title(world), World(0, SCALE)
    entities = map(made_of.entity, range(made_of.sizes.entities))
    assert known == {entity.title: articles.blocks(entity) for entity in entities}
    assert all(len(block.split()) == 100 for blocks in known.values() for block in blocks[:-1])
    assert any('"' in title for title in known)
    written = tsv(world / "wikipedia" / "psgs_w100.tsv")
    assert written[0] == ["id", "text", "title"]
    assert all(text.startswith('"') for _, text, _ in written[1:])


def test_wiki6m_has_every_article_under_its_title_and_some_without_a_summary(world: Path) -> None:
    records = lines(world / "wikipedia" / "Wiki6M_ver_1_0.jsonl.gz")
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        first.setdefault(record["wikidata_id"], record)
    assert len(first) < len(records)
    known = blocks_by_title(world)
    assert {record["wikipedia_title"] for record in first.values()} == set(known)
    for record in first.values():
        assert record["wikipedia_content"].split() == " ".join(known[record["wikipedia_title"]]).split()
        summary = record.get("wikipedia_summary")
        assert summary is None or record["wikipedia_content"].startswith(summary)
    assert any("wikipedia_summary" not in record for record in records)
    assert any(record.get("wikipedia_summary", "") is None for record in records)
    titles = {record["wikidata_id"]: record["wikipedia_title"] for record in records}
    asked = [*lines(world / "oven" / "oven_entity_train.jsonl"), *lines(world / "oven" / "oven_entity_val.jsonl")]
    assert all(titles[record["entity_id"]] == record["entity_text"] for record in asked)
    assert len({record["entity_id"] for record in asked}) < len(titles), "there are distractors"
