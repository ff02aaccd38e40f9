"""Blocks of other sizes, so that everything is cut everywhere."""

import pytest

from m2kr.parsing import compressed


@pytest.fixture(params=[7, 64, 1 << 20], ids=lambda size: f"{size}-byte blocks")
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(compressed, "BLOCK_BYTES", request.param)
