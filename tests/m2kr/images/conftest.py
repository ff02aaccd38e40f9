"""A client of a hub, for the tests of what is read of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.m2kr.hub import client_of
from tests.m2kr.images.hub_client import Client


@pytest.fixture
def client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Client]:
    with HubServer() as server, client_of(server, tmp_path / "home"):
        yield Client(server, tmp_path, capsys)
