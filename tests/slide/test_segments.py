"""The cache of decoded tiles keeps to its bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage_qupath.slide.segments import SegmentCache


def segment(nbytes: int) -> np.ndarray:
    return np.zeros(nbytes, dtype=np.uint8)


def test_the_least_recently_used_goes_first() -> None:
    cache = SegmentCache(30)
    for column in range(3):
        cache.put((0, 0, column), segment(10))
    assert cache.get((0, 0, 0)) is not None
    cache.put((0, 0, 3), segment(10))
    assert cache.get((0, 0, 1)) is None
    assert [cache.get((0, 0, column)) is not None for column in (0, 2, 3)] == [True, True, True]


def test_a_segment_beyond_the_bound_stays_until_the_next() -> None:
    cache = SegmentCache(5)
    cache.put((0, 0, 0), segment(50))
    assert cache.get((0, 0, 0)) is not None
    cache.put((0, 0, 1), segment(50))
    assert cache.get((0, 0, 0)) is None
    assert cache.nbytes == 50
    cache.clear()
    assert cache.nbytes == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), max_size=60))
def test_the_bound_holds_whatever_comes(puts: list[tuple[int, int]]) -> None:
    cache = SegmentCache(60)
    for column, nbytes in puts:
        cache.put((0, 0, column), segment(nbytes))
        assert cache.nbytes <= 60
        assert cache.get((0, 0, column)) is not None
        held = [cache.get((0, 0, other)) for other in range(21)]
        assert cache.nbytes == sum(one.nbytes for one in held if one is not None)


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0 bytes, found -1"):
        SegmentCache(-1)
