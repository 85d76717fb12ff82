"""Entry of ``stimage-qupath`` and ``python -m stimage_qupath``."""

from __future__ import annotations

import sys

from stimage_qupath.process import set_up


def main() -> None:
    """Hand over to the worker, which loads neither typer nor rich, or to the command line."""
    set_up()
    if sys.argv[1:2] == ["worker"]:
        from stimage_qupath import worker

        worker.main()
    from stimage_qupath import cli

    cli.main()


if __name__ == "__main__":
    main()
