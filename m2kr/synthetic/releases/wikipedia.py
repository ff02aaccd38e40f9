"""Wikipedia: the 100-word blocks of DPR, and the summaries of Wiki6M."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.part import Part, encoded, gzipped, json_lines, upload_url
from m2kr.synthetic.world import Entity, Shuffle, World


def wikipedia(world: World) -> Iterator[Part]:
    """DPR's psgs_w100.tsv, every article in blocks of 100 words, and Wiki6M, every article with its summary."""
    entities = world.sizes.entities

    def rows() -> Iterator[str]:
        order = Shuffle(entities, f"{world.seed}/articles")
        number = 0
        yield "id\ttext\ttitle\n"
        for row in range(entities):
            entity = world.entity(order.at(row))
            title = entity.title
            if '"' in title:
                title = _quoted(title)
            for block in articles.blocks(entity):
                number += 1
                yield f"{number}\t{_quoted(block)}\t{title}\n"

    yield Part("psgs_w100.tsv", 5 * entities, encoded(rows))
    yield Part("Wiki6M_ver_1_0.jsonl.gz", entities, gzipped(lambda: json_lines(_wiki6m(world))))


def _wiki6m(world: World) -> Iterator[dict[str, Any]]:
    entities = world.sizes.entities
    order = Shuffle(entities, f"{world.seed}/wiki6m")
    for row in range(entities):
        yield _wiki6m_record(world.entity(order.at(row)))
    for index in range(6, entities, 40):  # an identifier may come again, with less to say
        again = _wiki6m_record(world.entity(index))
        yield again | {"wikipedia_content": None, "wikipedia_image_url": None}


def _wiki6m_record(entity: Entity) -> dict[str, Any]:
    """Return an article; one in 13 has no summary, one in 17 not even the member, and few have an image."""
    sections = articles.article(entity)
    record: dict[str, Any] = {
        "wikidata_id": entity.qid,
        "wikipedia_title": entity.title,
        "wikipedia_content": "\n\n".join(section.text for section in sections),
        "wikipedia_summary": None if entity.index % 13 == 5 else sections[0].text,
        "wikipedia_image_url": upload_url(f"{entity.title}.jpg") if entity.index % 3 == 0 else None,
    }
    if entity.index % 17 == 3:
        del record["wikipedia_summary"]
    return record


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'
