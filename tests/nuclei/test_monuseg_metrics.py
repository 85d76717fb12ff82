"""The metrics of the MoNuSeg script against arithmetic by hand."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "monuseg.py"


@pytest.fixture(scope="module")
def monuseg() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("monuseg_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TRUTH = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 0, 3]], np.int32)
FOUND = np.array([[0, 5, 5, 5, 5, 0, 6, 0, 9, 0]], np.int32)


def test_dice(monuseg: ModuleType) -> None:
    assert monuseg.dice(TRUTH, FOUND) == pytest.approx(2 * 4 / (7 + 6))


def test_aji(monuseg: ModuleType) -> None:
    # 1 takes 5: 3 of 5 pixels; 2 takes 6: 1 of 2; 3 takes nothing: 1; nobody takes 9: 1.
    assert monuseg.aji(TRUTH, FOUND) == pytest.approx((3 + 1) / (5 + 2 + 1 + 1))
    assert monuseg.aji(TRUTH, TRUTH) == 1
    assert monuseg.aji(TRUTH, np.zeros_like(FOUND)) == 0


def test_a_prediction_over_two_nuclei_counts_for_both(monuseg: ModuleType) -> None:
    truth, found = np.array([[1, 1, 2, 2]], np.int32), np.array([[7, 7, 7, 7]], np.int32)
    assert monuseg.aji(truth, found) == pytest.approx((2 + 2) / (4 + 4))


def test_scores_hold_f1_and_pq_at_half(monuseg: ModuleType) -> None:
    dice, aji, f1, pq = monuseg.scores(TRUTH, FOUND)
    assert (dice, aji) == (monuseg.dice(TRUTH, FOUND), monuseg.aji(TRUTH, FOUND))
    assert f1 == pytest.approx(2 * 2 / (3 + 3))  # 1-5 at 0.6 and 2-6 at 0.5
    assert pq == pytest.approx((0.6 + 0.5) / 3)


def test_a_painted_square_covers_its_pixels(monuseg: ModuleType) -> None:
    square = np.array([(2, 1), (5, 1), (5, 3), (2, 3), (2, 1)], float)
    painted = monuseg.painted([square], (5, 7))
    assert np.argwhere(painted).tolist() == [[i, j] for i in (1, 2) for j in (2, 3, 4)]


def test_outlines_and_pixel_size_of_an_aperio_file(monuseg: ModuleType, tmp_path: Path) -> None:
    text = (
        '<Annotations MicronsPerPixel="0.2525"><Annotation><Regions>'
        '<Region><Vertices><Vertex X="1" Y="2"/><Vertex X="3" Y="2"/><Vertex X="3" Y="5.5"/></Vertices></Region>'
        '<Region><Vertices><Vertex X="1" Y="2"/></Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    )
    path = tmp_path / "tile.xml.gz"
    path.write_bytes(gzip.compress(text.encode()))
    rings, mpp = monuseg.read_annotations(path)
    assert [ring.tolist() for ring in rings] == [[[1, 2], [3, 2], [3, 5.5]]]
    assert mpp == 0.2525
