"""Options of retrievers and readers."""

from __future__ import annotations

from typing import Literal

import pytest

from baselines.common.options import check_choice, whole_number
from m2kr.errors import M2KRError


def test_a_choice_is_one_of_those_there_are() -> None:
    check_choice("fusion", "sum", Literal["sum", "image"])
    with pytest.raises(M2KRError, match=r"fusion 'imag' is not known\. Did you mean image\? Choose one of sum, image"):
        check_choice("fusion", "imag", Literal["sum", "image"])


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "many", "", "2147483648"])
def test_numbers_are_whole_and_not_too_small(value: str) -> None:
    assert whole_number("k", "1") == 1
    with pytest.raises(M2KRError, match=f"k={value}: it has to be a whole number from 1"):
        whole_number("k", value)
