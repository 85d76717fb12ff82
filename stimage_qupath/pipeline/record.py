"""What a run notes about itself: seconds and items a stage, memory, versions."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from stimage_qupath import __version__

Item = TypeVar("Item")
PACKAGES = ("numpy", "scipy", "torch", "timm", "shapely", "tifffile", "anndata", "scikit-image")


class Stopwatch:
    """Seconds and items of each stage, as the flow itself waited for them, and of work that threads did meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._items: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, items: int = 0) -> Iterator[None]:
        """Book the time of a block, and items done in it, under ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds
                self._items[name] = self._items.get(name, 0) + items

    def count(self, name: str, items: int) -> None:
        """Add items to a stage."""
        with self._lock:
            self._items[name] = self._items.get(name, 0) + items

    def waiting(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield from ``items``, booking the wait for each under ``name``."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def record(self) -> dict[str, Any]:
        """Return seconds, items and items a second of each stage, and the total."""
        stages = {
            name: {
                "seconds": round(seconds, 3),
                "items": self._items.get(name, 0),
                "items_per_second": round(self._items.get(name, 0) / seconds, 1) if seconds > 0 else None,
            }
            for name, seconds in self._seconds.items()
        }
        return {"stages": stages, "seconds": round(time.perf_counter() - self._start, 3)}


def peak_memory_mib() -> float | None:
    """Return the most memory this process has held, MiB; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def versions() -> dict[str, str]:
    """Return the versions that a result can depend on."""
    found = {"stimage-qupath": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
