"""Blocks of nuclei as arrays and back, and a segmentation that finds them again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import shapely

from stimage_qupath.nuclei.blocks import BlockNuclei
from stimage_qupath.nuclei.kept import as_arrays, from_arrays
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.results import Region


class Memory:
    """Keeps blocks as arrays, and counts."""

    def __init__(self):
        self.blocks, self.lock = {}, threading.Lock()

    def load(self, place):
        arrays = self.blocks.get(place)
        return None if arrays is None else from_arrays(arrays)

    def save(self, place, nuclei):
        with self.lock:
            self.blocks[place] = as_arrays(nuclei)


def some_nuclei(count, *, with_cells):
    rng = np.random.default_rng(count)
    centres = rng.uniform(0, 1e5, (count, 2))
    nuclei = shapely.buffer(shapely.points(centres), rng.uniform(3, 9, count))
    rings = shapely.difference(shapely.buffer(nuclei, 4), nuclei)  # with a hole each
    values = {"Nucleus: Area µm^2": rng.normal(size=count).astype(np.float32), "b": np.zeros(count, np.float32)}
    return BlockNuclei(nuclei, centres, values, rings if with_cells else None)


@pytest.mark.parametrize("count", [0, 1, 17])
@pytest.mark.parametrize("with_cells", [False, True])
def test_a_block_comes_back_to_the_last_bit(count, with_cells):
    nuclei = some_nuclei(count, with_cells=with_cells)
    arrays = as_arrays(nuclei)
    assert all(values.dtype != object for values in arrays.values())  # numpy can keep them without pickle
    found = from_arrays(arrays)
    assert len(found) == count
    assert shapely.to_wkb(found.polygons).tolist() == shapely.to_wkb(nuclei.polygons).tolist()
    assert found.centroids_px.tobytes() == nuclei.centroids_px.tobytes()
    assert list(found.measurements) == list(nuclei.measurements)
    assert all(found.measurements[name].tobytes() == v.tobytes() for name, v in nuclei.measurements.items())
    if with_cells:
        assert shapely.to_wkb(found.boundaries).tolist() == shapely.to_wkb(nuclei.boundaries).tolist()
    else:
        assert found.boundaries is None


def test_blocks_that_are_kept_are_not_segmented_again(disc_slide, dark_parts):
    rng = np.random.default_rng(0)
    discs = np.column_stack([np.arange(20, 580, 24), rng.uniform(20, 280, 24), rng.uniform(5, 9, 24)])
    region = Region(id="r", geometry=shapely.box(0, 0, 600, 300))

    def found(slide, kept, expansion_um):
        options = {"image_id": "i", "block_um": 50, "threads": 3, "kept": kept, "expansion_um": expansion_um}
        chunks = list(segment_regions(slide, 0.5, [region], dark_parts(), **options))
        cells = [chunk.cells for chunk in chunks]
        together = [c.ids.tolist() + shapely.to_wkb(c.polygons).tolist() for c in cells]
        return together, [{n: v.tolist() for n, v in c.measurements.items()} for c in cells]

    for expansion_um in (0.0, 3.0):
        slide, kept = disc_slide(600, 300, 0.5, discs), Memory()
        whole = found(slide, None, expansion_um)
        reads = len(slide.reads)
        assert found(slide, kept, expansion_um) == whole
        lost = sorted(kept.blocks)[::3]
        for place in lost:
            del kept.blocks[place]
        slide.reads.clear()
        assert found(slide, kept, expansion_um) == whole
        assert 0 < len(slide.reads) <= reads * (len(lost) + 1) / len(kept.blocks)
