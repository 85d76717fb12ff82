"""Work for torch in pieces, on threads that compute alone.

Torch shares out a single operation, and how it cuts a sum depends on the number of threads: so would the last digits of
every result, and a worker of a cluster would write other files than the command. Here one thread computes a piece from
beginning to end, and the pieces are shared out; nor does every thread wait for the others after each of many small
operations, a tenth of an encoder's time.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_lone_threads(
    compute: Callable[[Piece], Result], pieces: Iterable[Piece], *, device: torch.device
) -> list[Result]:
    """Return ``compute(piece)`` for each piece, in their order.

    On a processor as many are computed at once as torch has threads; with gradients, and on other devices, one after
    the other. ``compute`` must not call this function.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or torch.is_grad_enabled() or not _threads_have_their_own_number():
        return [compute(piece) for piece in pieces]

    def alone(piece: Piece) -> Result:
        with torch.inference_mode():  # each thread has its own
            return compute(piece)

    return list(_pool(threads).map(alone, pieces))


@functools.cache
def _threads_have_their_own_number() -> bool:
    return "OpenMP" in torch.__config__.parallel_info().split("ATen parallel backend:")[-1]


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads in which torch computes without others."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="torch", initializer=_compute_alone)
    all_there = threading.Barrier(threads)
    list(pool.map(lambda _: all_there.wait(), range(threads)))
    torch.set_num_threads(threads)  # _compute_alone also changes what threads to come begin with
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # torch sets the number of a new thread when it is first asked for
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a copy of this process has none of its threads
