"""Fixtures shared by all tests: where the real data are, when they are there at all."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real sections and slides; skip where this machine has none."""
    if not DATA.is_dir():
        pytest.skip("real data: ../shared/data is not on this machine")
    return DATA
