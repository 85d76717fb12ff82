"""How a process that does the work of this package is set up: the command, and the workers it starts on a cluster."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any, Final

_GARBAGE_AFTER: Final = 20_000
"""Objects after which Python looks for cycles among them: loading torch makes a million that stay."""


def set_up() -> None:
    """Set what has to be set before torch is loaded; the user's own environment wins."""
    # Torch's threads, segmentation's and whatever else runs here share the cores; waiting in a loop, as is the default,
    # then costs up to ten times the work (measured on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(_GARBAGE_AFTER)  # half a second of every start
    atexit.register(gc.freeze)  # the system takes the memory back anyhow: a second of every end


def dask_setup(worker: Any) -> None:
    """Set up a worker; dask calls this in modules that it is told to load."""
    del worker
    set_up()
