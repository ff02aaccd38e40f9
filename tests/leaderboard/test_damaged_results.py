"""A site is made of result files, or a damaged one is refused in one line; never a traceback."""

from __future__ import annotations

from random import Random

import pytest

from leaderboard.site import build
from m2kr.errors import M2KRError
from tests.damage import damaged_json


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("kind", ["make", "make_answer"])
def test_a_site_is_made_or_a_damaged_result_is_refused(kind, request, results, tmp_path):
    path = request.getfixturevalue(kind)()
    whole = path.read_text(encoding="utf-8")
    refused, defects = 0, []
    for number in range(12):
        path.write_bytes(damaged_json(whole, Random(f"{kind} {number}")))
        try:
            build(results, tmp_path / "site", quiet=True)
        except M2KRError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 - whatever was damaged
        except Exception as error:
            defects.append(f"{path.read_bytes()!r}: {error!r}")
    assert not defects, "\n".join(defects)
    assert refused
