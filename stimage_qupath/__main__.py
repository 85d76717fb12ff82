"""Entry of ``stimage-qupath`` and ``python -m stimage_qupath``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Hand over to the worker, which loads neither typer nor rich, or to the command line."""
    # Read when torch is loaded. Its threads, segmentation's and whatever else runs here share the cores; waiting in a
    # loop, as is the default, then costs up to ten times the work (measured on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.argv[1:2] == ["worker"]:
        from stimage_qupath import worker

        worker.main()
    from stimage_qupath import cli

    cli.main()


if __name__ == "__main__":
    main()
