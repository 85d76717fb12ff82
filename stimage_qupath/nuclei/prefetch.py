"""Results in the order they were asked for, computed a few ahead by threads."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def in_order(
    keys: Iterable[Key], compute: Callable[[Key], Value], *, threads: int, remembered: int
) -> Generator[Value, None, None]:
    """Yield ``compute(key)`` for each key, in the order of the keys.

    Parameters
    ----------
    keys
        Read no further ahead than two keys a thread.
    compute
        Called from many threads at once.
    threads
        Number of threads.
    remembered
        Number of keys, the last asked for, whose results are kept, so that one that comes back is not computed again.

    Raises
    ------
    Exception
        Whatever ``compute`` raises, when its key's turn has come.
    """
    recent: OrderedDict[Key, Future[Value]] = OrderedDict()
    waiting: deque[Future[Value]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="nuclei")
    try:
        for key in keys:
            future = recent.pop(key, None) or pool.submit(compute, key)
            recent[key] = future
            if len(recent) > remembered:
                recent.popitem(last=False)
            waiting.append(future)
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # also when the caller stops early
