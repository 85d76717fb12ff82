"""Maps around a changed part: the same as when the whole picture is computed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.models import mobilenet_changes
from stimage_qupath.models.mobilenet import load_trunk
from stimage_qupath.models.mobilenet_changes import RememberedTrunk, Span

PARTS = [[10, 9], [0, 0], [21, 20], [5, 0]]
"""In the middle, in a corner, over the far edges, at an edge; in steps of 16 px."""


@pytest.fixture(scope="module")
def trunk():
    return load_trunk()[0]


@pytest.fixture(scope="module", params=[(352, 368), (350, 361)], ids=["whole steps", "odd size"])
def picture(request):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.uniform(-1, 1, (1, 3, *request.param)).astype(np.float32))


def with_part(picture, corner, part):
    changed = picture.clone()
    hole = changed[0, :, corner[1] * 16 : corner[1] * 16 + 32, corner[0] * 16 : corner[0] * 16 + 16]
    hole[:] = part[:, : hole.shape[1], : hole.shape[2]]
    return changed


def test_where_nothing_is_cut_off_the_maps_are_those_of_the_changed_picture(trunk, picture, monkeypatch):
    monkeypatch.setattr(mobilenet_changes, "SPREAD", 12)
    monkeypatch.setattr(mobilenet_changes, "KEPT_PX", 16 * 16)
    parts = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (4, 3, 32, 16)).astype(np.float32))
    with torch.inference_mode():
        remembered = RememberedTrunk(trunk, picture, np.array([[0, 0], [352, 336]]))
        found = remembered.changed(torch.tensor(PARTS), parts)
        for number, corner in enumerate(PARTS):
            expected = trunk(with_part(picture, corner, parts[number]))
            for old, new, change in zip(remembered.maps, expected, found, strict=True):
                difference = torch.zeros_like(old[0]).movedim(0, -1)
                at = (change.rows[number][:, None], change.columns[number][None, :])
                difference.index_put_(at, change.new[number] - change.old[number], accumulate=True)
                torch.testing.assert_close(old[0] + difference.movedim(-1, 0), new[0], rtol=0, atol=2e-5)
                assert (new - old).abs().max() > 0.1


def test_what_is_cut_off_is_little(trunk, picture):
    parts = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1, 3, 32, 16)).astype(np.float32))
    with torch.inference_mode():
        change = RememberedTrunk(trunk, picture, np.array([[150, 140], [180, 180]])).changed(
            torch.tensor(PARTS[:1]), parts
        )
        expected = trunk(with_part(picture, PARTS[0], parts[0]))
        for old, new, one in zip(trunk(picture), expected, change, strict=True):
            followed = (one.new - one.old).abs().sum()
            assert 0.8 < followed / (new - old).abs().sum() < 1.2


def test_spans_follow_filters_of_three():
    """Output 2j to 2j + 2 where it strides by two: cells 4 to 7 are seen by outputs 1 to 3, which look at 2 to 8."""
    assert Span(4, 8).outputs(strided=True) == (1, 4)
    assert Span(1, 4).inputs(strided=True) == (2, 9)
    assert Span(4, 8).outputs(strided=False) == (3, 9)
    assert Span(3, 9).inputs(strided=False) == (2, 10)
