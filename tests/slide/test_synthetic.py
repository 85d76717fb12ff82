import numpy as np
import shapely
import tifffile
import torch

from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.regions.tissue import find_tissue
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.synthetic import DENSITY_UM2, TILE_PX, write_synthetic_slide


def test_it_is_a_pyramid_whose_levels_show_the_same_tissue(tmp_path):
    path = tmp_path / "s.ome.tif"
    tiles = write_synthetic_slide(path, 3000, 2000, seed=1)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shapes = [level.shape for level in series.levels]
        assert shapes == [(2000, 3000, 3), (1000, 1500, 3), (500, 750, 3)]
        fine, coarse = series.levels[0].asarray(), series.levels[2].asarray()
    reduced = fine.reshape(500, 4, 750, 4, 3).mean((1, 3))
    assert np.abs(reduced - coarse).max() < 1.01  # means are cut to whole numbers
    share = (fine[..., 1] < 235).mean()
    assert abs(share - tiles * TILE_PX**2 / (2000 * 3000)) < 0.15
    other = tmp_path / "t.ome.tif"
    write_synthetic_slide(other, 3000, 2000, seed=1)
    assert tifffile.imread(other).tobytes() == fine.tobytes()


def test_tissue_and_nuclei_are_found_in_it(tmp_path):
    path = tmp_path / "s.ome.tif"
    write_synthetic_slide(path, 1600, 1600)
    with open_slide(path) as slide:
        assert slide.mpp == 0.5
        assert find_tissue(slide, slide.mpp)
        area = shapely.box(600, 600, 1000, 1000)
        region = Region(id="r", geometry=area)
        found = segment_regions(
            slide, 0.5, [region], choose_segmenter("classical", device=torch.device("cpu")), image_id="i", threads=1
        )
        count = sum(len(chunk.cells) for chunk in found)
    expected = DENSITY_UM2 * 200**2  # some drawn nuclei overlap
    assert 0.5 * expected < count < 1.3 * expected
