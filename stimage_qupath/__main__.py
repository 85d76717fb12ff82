"""Entry of ``stimage-qupath`` and ``python -m stimage_qupath``."""

from __future__ import annotations


def main() -> None:
    """Hand over to the command line."""
    from stimage_qupath import cli

    cli.main()


if __name__ == "__main__":
    main()
