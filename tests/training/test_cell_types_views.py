"""Further views of labelled slides: other stains and scales, the same labels, no more weight."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
import torch
from PIL import Image

from stimage_qupath.prediction.nucleus_features import SHAPES, NucleusFeatures
from stimage_qupath.results import never_cancelled, no_progress
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.cell_types_dataset import Encoding, read_labelled_images
from stimage_qupath.training.cell_types_views import AUGMENTATION, other_views
from stimage_qupath.training.labelled_images import join_images

LOOK = NucleusFeatures(None, appearance=True, shape=True)


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(120, 240, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "i.png")
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shapely.Point(x, y).buffer(9)),
            "properties": {"objectType": "detection", "classification": {"name": "ab"[k % 2], "color": [k, 0, 0]}},
        }
        for k, (x, y) in enumerate(rng.uniform(30, 370, (40, 2)))
    ]
    (tmp_path / "n.geojson").write_text(json.dumps(features), encoding="utf-8")
    (tmp_path / "t.csv").write_text("image,labels,mpp\ni.png,n.geojson,0.5\n")
    return tmp_path / "t.csv"


def read(table, views, seed=0):
    encoding = Encoding(features=LOOK, device=torch.device("cpu"), batch_size=8, views=views, seed=seed)
    return read_labelled_images(table, encoding, level="nucleus", on_progress=no_progress, cancelled=never_cancelled)


def test_views_are_other_pixels_at_another_size_and_equal_for_equal_seeds(table):
    with open_slide(table.parent / "i.png") as slide:
        region = {"x": 100, "y": 100, "width": 20, "height": 20}
        seen = [(view.read_region(**region), mpp) for view, mpp in other_views(slide, 0.5, count=3, seed=1)]
        again = [view.read_region(**region) for view, _ in other_views(slide, 0.5, count=3, seed=1)]
        plain = slide.read_region(**region)
        assert slide.read_region(**region).shape == (20, 20, 3)  # the source is still open
    for (pixels, mpp), other in zip(seen, again, strict=True):
        assert 0.5 / AUGMENTATION.scale <= mpp <= 0.5 * AUGMENTATION.scale
        np.testing.assert_array_equal(pixels, other)
        assert np.abs(pixels.astype(int) - plain).mean() > 1
    assert len({mpp for _, mpp in seen}) == 3


def test_nuclei_of_a_view_have_other_stains_and_sizes_but_the_same_form(table):
    (image,) = read(table, views=2)
    assert len(image.views) == 2
    area, circularity = (-len(SHAPES) + SHAPES.index(name) for name in (SHAPES[0], SHAPES[2]))
    for view in image.views:
        ratio = view[:, area] - image.features[:, area]  # of logarithms
        assert np.ptp(ratio) < 1e-5
        assert 0 < abs(ratio[0]) <= 2 * np.log(AUGMENTATION.scale)
        np.testing.assert_allclose(view[:, circularity], image.features[:, circularity], atol=1e-5)
        assert np.abs(view[:, :3] - image.features[:, :3]).mean() > 1e-3


def test_views_stay_with_their_unit_and_add_no_weight(table):
    plain, _, _ = join_images(read(table, views=0), level="nucleus")
    places, _, _ = join_images(read(table, views=2), level="nucleus")
    assert len(places) == 3 * len(plain) == 120
    np.testing.assert_array_equal(places.features[:40], plain.features)
    np.testing.assert_array_equal(places.unit, np.tile(plain.unit, 3))
    np.testing.assert_array_equal(places.target, np.tile(plain.target, (3, 1)))
    assert places.weight.sum() == pytest.approx(plain.weight.sum())
