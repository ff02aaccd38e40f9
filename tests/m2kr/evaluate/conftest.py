"""What the tests of evaluation share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _each_input_once(unsampled: None) -> None:
    """The fakes see what is evaluated alone; `test_batch_effect` looks at the rest."""
