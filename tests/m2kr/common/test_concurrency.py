"""Reading ahead and mapping in threads change nothing but the time."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.common.concurrency import ordered_map, prefetch


@given(st.lists(st.integers()))
def test_reading_ahead_keeps_items_and_order(items):
    assert list(prefetch(iter(items))) == items


def test_reading_ahead_makes_one_item_more_than_was_taken():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    stream = prefetch(items())
    assert next(stream) == 0
    time.sleep(0.3)
    assert made == [0, 1]
    assert list(stream) == list(range(1, 100))


def test_an_error_while_reading_ahead_comes_where_it_would_have():
    def items():
        yield 1
        raise ValueError("broken")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_the_thread_ends_when_the_reader_stops():
    before = threading.active_count()
    stream = prefetch(iter(range(1_000)))
    next(stream)
    stream.close()
    assert threading.active_count() == before


@given(st.lists(st.integers()), st.integers(1, 4))
def test_a_map_in_threads_keeps_the_order(items, workers):
    assert list(ordered_map(lambda item: item + 1, items, workers)) == [item + 1 for item in items]


def test_a_map_in_threads_takes_a_bounded_number_of_items_ahead():
    taken = []
    stream = ordered_map(str, (taken.append(number) or number for number in range(100)), 4)
    assert next(stream) == "0"
    assert len(taken) == 5
    assert list(stream) == [str(number) for number in range(1, 100)]
