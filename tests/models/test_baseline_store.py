"""The file of baselines: what was written comes back, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.models.baseline_store import BASELINES_SAFETENSORS, CARD_KEY, read_baselines, write_baselines


def test_arrays_and_facts_come_back(tmp_path):
    # A transposed array: safetensors would write its memory as it lies.
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array([1, 2], np.uint8)}
    record = write_baselines(tmp_path, arrays, {"patients": ["Ä", "B"], "reference_total": 3.5})
    found, facts = read_baselines(tmp_path, {CARD_KEY: record})
    np.testing.assert_array_equal(found["a"], arrays["a"])
    assert found["b"].dtype == np.uint8
    assert facts == {"patients": ["Ä", "B"], "reference_total": 3.5}
    assert record["bytes"] == (tmp_path / BASELINES_SAFETENSORS).stat().st_size


def test_a_model_without_baselines_has_none(tmp_path):
    assert read_baselines(tmp_path, {}) is None


def test_another_file_is_refused(tmp_path):
    record = write_baselines(tmp_path, {"a": np.zeros(3)}, {})
    card = {CARD_KEY: record}
    data = (tmp_path / BASELINES_SAFETENSORS).read_bytes()
    (tmp_path / BASELINES_SAFETENSORS).write_bytes(data[:-1] + b"\1")
    with pytest.raises(UnknownModelError, match=r"the baselines at .* are damaged: expected SHA-256"):
        read_baselines(tmp_path, card)
    (tmp_path / BASELINES_SAFETENSORS).unlink()
    with pytest.raises(UnknownModelError, match=r"expected the baselines that the card names"):
        read_baselines(tmp_path, card)
