"""Options that commands share."""

import pytest

from m2kr.common.options import LoadOptions, parse_pairs
from m2kr.errors import M2KRError


def test_settings_of_a_model_are_written_name_equals_value():
    assert LoadOptions(option=("a=1", "b=x=y", "c="), device="cuda:1").loading == {
        "checkpoint": None,
        "device": "cuda:1",
        "dtype": "float32",
        "options": {"a": "1", "b": "x=y", "c": ""},
    }


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        (["a"], "--set a: .*TASK.OPTION=VALUE"),
        (["=1"], "--set =1: "),
        ([""], "--set : "),
        (["a=1", "a=2"], "--set a .*twice.*'1'.*'2'"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(values, facts):
    with pytest.raises(M2KRError, match=facts):
        parse_pairs("--set", values, "TASK.OPTION=VALUE")
