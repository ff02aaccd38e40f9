"""The columns are the published ones."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from m2kr.formats.schema import arrow_schema, polars_schema
from m2kr.tasks import TASKS

SPEC = Path(__file__).resolve().parents[4] / "shared" / "spec" / "m2kr_schema.json"
CONFIGS = [config for task in TASKS.values() for config in (task.data_config, task.passages_config)]
CODES = {"s": "string", "i": "int64", "f": "double", "b": "bool", "null": "null"}


def spelled(kind: pa.DataType) -> str:
    """An Arrow type as the specification writes it."""
    for code, name in CODES.items():
        if str(kind) == name:
            return code
    if pa.types.is_list(kind):
        inner = spelled(kind.value_type)
        return f"l{inner}" if inner in ("s", "f") else f"list<{inner}>"
    return f"struct<{', '.join(f'{field.name}: {spelled(field.type)}' for field in kind)}>"


@pytest.mark.skipif(not SPEC.exists(), reason="the published schema is not beside this checkout (shared/spec)")
def test_every_config_has_the_published_columns_types_and_splits():
    published = json.loads(SPEC.read_text(encoding="utf-8"))["configs"]
    assert set(CONFIGS) == set(published)
    for config, facts in published.items():
        columns = facts["columns"]
        if isinstance(columns, str):
            columns = published[columns.removeprefix("as ")]["columns"]
        if config == "CC_data":
            assert columns["question"] == "null"
            columns = columns | {"question": "s"}  # empty texts, so that the official example reads them
        assert {field.name: spelled(field.type) for field in arrow_schema(config)} == columns, config
        assert arrow_schema(config).names == list(columns), config
    for task in TASKS.values():
        queries = {split: counts[0] for split, counts in task.published.items()}
        passages = {f"{split}_passages": counts[1] for split, counts in task.published.items()}
        assert published[task.data_config]["splits"] == queries
        assert published[task.passages_config]["splits"] == passages


def test_there_are_twenty_configs_and_all_have_polars_types():
    assert len(CONFIGS) == 20
    for config in CONFIGS:
        assert polars_schema(config).names() == arrow_schema(config).names
