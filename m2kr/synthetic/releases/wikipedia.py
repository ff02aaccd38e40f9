"""Wikipedia: DPR's psgs_w100.tsv, every article in blocks of 100 words, and Wiki6M, every article with its summary."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, json_lines, text_file, upload_url
from m2kr.synthetic.world import Entity, World


def _files(world: World) -> Iterator[ReleaseFile]:
    entities = world.sizes.entities
    yield text_file("psgs_w100.tsv", 5 * entities, partial(_blocks, world))
    yield text_file("Wiki6M_ver_1_0.jsonl.gz", entities, lambda: json_lines(_wiki6m(world)))


def _in_order_of(world: World, file: str) -> Iterator[Entity]:
    entities = world.sizes.entities
    return map(world.entity, map(world.shuffle(entities, file).at, range(entities)))


def _blocks(world: World) -> Iterator[str]:
    number = 0
    yield "id\ttext\ttitle\n"
    for entity in _in_order_of(world, "articles"):
        title = _in_quotes(entity.title) if '"' in entity.title else entity.title
        for block in articles.blocks(entity):
            number += 1
            yield f"{number}\t{_in_quotes(block)}\t{title}\n"


def _in_quotes(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def _wiki6m(world: World) -> Iterator[dict[str, Any]]:
    yield from map(_wiki6m_record, _in_order_of(world, "wiki6m"))
    for index in range(6, world.sizes.entities, 40):  # an identifier may come again, with less to say
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


RELEASE = SyntheticRelease("the Wikipedia passages of DPR and OVEN", _files)
