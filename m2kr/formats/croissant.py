"""Croissant 1.1 metadata of a built benchmark: what its files hold, for machines (docs.mlcommons.org/croissant).

One FileObject for each shard, with its SHA-256; one FileSet and one RecordSet for each split of a config. Left out are
columns of type null, which hold nothing, and nested ones (lists of records, records), which models were to fill in and
a build leaves empty; the description of the RecordSet names them. Nothing depends on the time or the machine.
"""

from __future__ import annotations

from typing import Any

from m2kr import __version__
from m2kr.formats.schema import arrow_schema
from m2kr.tasks import BENCHMARK_CITATION, RELEASES, TASKS

RELEASED = "2026-11-23"
"""Day of this version of the format. Croissant wants a date, and that of the build would change the bytes."""

URL = "https://aclanthology.org/2024.acl-long.289/"
"""The article: a built benchmark has no address of its own."""

# Croissant's recommended context: terms of its own, and others.
_TERMS = """
arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format
includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
samplingRate separator source subField transform unArray value
"""
_CONTEXT: dict[str, Any] = {
    **{term: f"cr:{term}" for term in _TERMS.split()},
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}

_TYPES = {"string": "sc:Text", "int64": "cr:Int64", "double": "cr:Float64", "bool": "sc:Boolean"}
"""Arrow types and what Croissant calls them."""


def croissant(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of the benchmark that a manifest describes."""
    entries: dict[str, Any] = manifest["tasks"]
    images: dict[str, Any] = manifest.get("images", {})
    made_up = [key for key, entry in entries.items() if entry["synthetic"]]
    distribution: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for key, entry in entries.items():
        packed = {TASKS[key].images_config: {"images": images[key]}} if key in images else {}
        for config, splits in {**entry["configs"], **packed}.items():
            for split, facts in splits.items():
                distribution += [*(_file(shard) for shard in facts["shards"]), _file_set(config, split)]
                pictured = "passage_images" in entry and config == TASKS[key].passages_config
                records.append(_records(config, split, passage_images=pictured))
    warning = f" The data of {', '.join(made_up)} is made up and describes nothing real." if made_up else ""
    releases = [RELEASES[folder] for folder in dict.fromkeys(f for key in entries for f in TASKS[key].releases)]
    return {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": "M2KR",
        "description": "Questions, images and the passages that answer them, for multimodal knowledge retrieval, built "
        f"from the raw releases of {', '.join(entries) or 'no dataset'}.{warning}",
        "url": URL,
        "version": __version__,
        "datePublished": RELEASED,
        "creator": {"@type": "sc:Organization", "name": "M2KR maintainers"},
        # The terms of a release that has no SPDX identifier are on its page.
        "license": list(
            dict.fromkeys(
                release.url.split(" ")[0]
                if release.licence == "other"
                else f"https://spdx.org/licenses/{release.licence}.html"
                for release in releases
            )
        ),
        "citeAs": BENCHMARK_CITATION,
        "keywords": ["retrieval", "multimodal", "visual question answering"],
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": records,
    }


def _file(shard: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard["path"],
        "name": shard["path"],
        "contentUrl": shard["path"],
        "contentSize": f"{shard['bytes']} B",
        "encodingFormat": "application/x-parquet",
        "sha256": shard["sha256"],
    }


def _file_set(config: str, split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{config}/{split}-files",
        "name": f"{config}/{split}-files",
        "description": f"The shards of {config}/{split}.",
        "encodingFormat": "application/x-parquet",
        "includes": f"{config}/{split}-*.parquet",
    }


def _records(config: str, split: str, *, passage_images: bool) -> dict[str, Any]:
    name = f"{config}/{split}"
    fields: list[dict[str, Any]] = []
    left_out: list[str] = []
    if config.endswith("_images"):
        fields.append(_field(name, "img_path", "sc:Text", "Path that queries name the image by."))
        fields.append(_field(name, "image", "sc:ImageObject", "The image, as its file is."))
        fields[-1]["source"]["transform"] = {"jsonPath": "bytes"}
    else:
        for column in arrow_schema(config, passage_images=passage_images):
            kind, is_list = str(column.type), str(column.type).startswith("list<")
            if is_list:
                kind = str(column.type.value_type)
            if kind not in _TYPES:
                left_out.append(column.name)
                continue
            fields.append(_field(name, column.name, _TYPES[kind], f"Column {column.name}."))
            if is_list:
                fields[-1].update({"isArray": True, "arrayShape": "-1"})
    note = f" Columns not described here, for they are empty: {', '.join(left_out)}." if left_out else ""
    record: dict[str, Any] = {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"Rows of config {config}, split {split}.{note}",
    }
    keys = {"_data": "question_id", "_passages": "passage_id", "_images": "img_path"}
    key = next(column for suffix, column in keys.items() if config.endswith(suffix))
    return {**record, "key": {"@id": f"{name}/{key}"}, "field": fields}


def _field(records: str, column: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": f"{records}/{column}",
        "description": description,
        "dataType": kind,
        "source": {"fileSet": {"@id": f"{records}-files"}, "extract": {"column": column}},
    }
