"""Results in order, computed a few ahead and not twice."""

from __future__ import annotations

import threading
import time

import pytest

from stimage_qupath.nuclei.prefetch import in_order


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_the_order_of_the_keys(threads: int) -> None:
    def slow_first(key: int) -> int:
        time.sleep(0.03 if key == 0 else 0)
        return key * key

    assert list(in_order(range(20), slow_first, threads=threads, remembered=4)) == [k * k for k in range(20)]


def test_a_key_that_comes_back_soon_is_not_computed_again() -> None:
    computed = []
    keys = [1, 2, 3, 2, 1, 4, 5, 6, 7, 1]

    def note(key: int) -> int:
        computed.append(key)
        return key

    assert list(in_order(keys, note, threads=1, remembered=3)) == keys
    assert computed == [1, 2, 3, 4, 5, 6, 7, 1]


def test_keys_are_read_only_a_little_ahead() -> None:
    read = []

    def keys() -> object:
        for key in range(1000):
            read.append(key)
            yield key

    results = in_order(keys(), lambda key: key, threads=2, remembered=2)
    assert [next(results), next(results)] == [0, 1]
    assert len(read) <= 2 + 2 * 2
    results.close()


def test_an_error_is_raised_when_its_turn_has_come() -> None:
    def fails_at_two(key: int) -> int:
        if key == 2:
            msg = "two"
            raise OSError(msg)
        return key

    results = in_order(range(5), fails_at_two, threads=2, remembered=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="two"):
        next(results)


def test_stopping_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    results = in_order(range(100), lambda key: time.sleep(0.005), threads=3, remembered=5)
    next(results)
    results.close()
    assert threading.active_count() == before
