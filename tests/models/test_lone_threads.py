"""Pieces on threads that compute alone."""

from __future__ import annotations

import multiprocessing
import sys
import threading

import numpy as np
import pytest
import torch

from stimage_qupath.models import lone_threads
from stimage_qupath.models.lone_threads import in_lone_threads

CPU = torch.device("cpu")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_pieces_come_back_in_order_from_threads_that_have_torch_to_themselves():
    here, all_there = threading.get_ident(), threading.Barrier(3, timeout=20)

    def about(piece):
        all_there.wait()  # three at once
        (torch.rand(300, 300) @ torch.rand(300, 300)).exp_()  # whatever sets the number of threads has done so
        return piece, torch.get_num_threads(), threading.get_ident() == here, torch.is_inference_mode_enabled()

    with torch.inference_mode():
        found = in_lone_threads(about, range(9), device=CPU)

    assert found == [(piece, 1, False, True) for piece in range(9)]
    assert torch.get_num_threads() == 3
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [3]


@pytest.mark.usefixtures("three_threads")
def test_gradients_stay_where_they_are_asked_for():
    x = torch.ones(4, requires_grad=True)
    here = threading.get_ident()

    def twice(i):
        assert threading.get_ident() == here
        return 2 * x[i]

    torch.stack(in_lone_threads(twice, range(4), device=CPU)).sum().backward()

    np.testing.assert_array_equal(x.grad, np.full(4, 2.0))


@pytest.mark.usefixtures("three_threads")
def test_an_error_of_a_piece_is_the_callers():
    def fails(piece):
        if piece == 5:
            1 / 0  # noqa: B018

    with torch.inference_mode(), pytest.raises(ZeroDivisionError, match="division"):
        in_lone_threads(fails, range(9), device=CPU)


def _squares(results):
    torch.set_num_threads(2)
    with torch.inference_mode():
        results.put(in_lone_threads(lambda i: i * i, range(4), device=CPU))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked there alone")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(three_threads):
    with torch.inference_mode():
        in_lone_threads(abs, range(4), device=CPU)
    assert lone_threads._pool.cache_info().currsize == 1
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_squares, args=(results,))
    process.start()

    assert results.get(timeout=30) == [0, 1, 4, 9]
    process.join(30)
