"""What several commands print."""

from __future__ import annotations

from typing import Any

from stimage_qupath import console


def say_warnings(record: dict[str, Any]) -> None:
    """Print a record's warnings on stderr."""
    for warning in record["warnings"]:
        console.say_error(f"warning: {warning}")
