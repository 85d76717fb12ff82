"""Where the nuclei of each region stand, by number and by the first id, and who checks it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_folder import RunWriter, read_run
from stimage_qupath.qupath.cell_arrays import iter_cells
from stimage_qupath.results import Cells, Region

COUNTS = (2, 0, 3)


def identity(number: int) -> str:
    return f"{number:08x}-0000-5000-8000-000000000000"


def region(number: int, **plane: int) -> Region:
    return Region(id=f"r{number}", geometry=shapely.box(0, 0, 50, 50), **plane)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of three regions, the middle one without nuclei, written in two blocks a region."""
    number = 0
    with RunWriter(tmp_path / "run", panel=None, model_card={}) as writer:
        for which, count in enumerate(COUNTS):
            writer.start_region(region(which))
            for size in (count // 2, count - count // 2):
                ids = np.array([identity(number + i) for i in range(size)], dtype=object)
                squares = np.array([shapely.box(1, 1, 5, 5)] * size, dtype=object)
                writer.append(Cells(ids=ids, polygons=squares, centroids_px=np.full((size, 2), 3.0)), None)
                number += size
        return writer.finish({})


def test_each_region_says_its_first_nucleus(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    expected = [(0, 2, identity(0)), (2, 0, None), (2, 3, identity(2))]
    assert [(entry["first"], entry["count"], entry["first_id"]) for entry in record["regions"]] == expected
    assert [(span.first, span.count, span.first_id) for span in read_run(run).spans] == expected
    assert sum(len(block) for block in iter_cells(read_run(run))) == 5


@pytest.mark.parametrize("block_cells", [1, 2, 100])
def test_a_record_of_other_nuclei_is_refused(run: Path, block_cells: int) -> None:
    path = run / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["regions"][2]["first_id"] = identity(7)
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"expected nucleus {identity(7)} at place 2 of .*, found {identity(2)}; run"):
        list(iter_cells(read_run(run), block_cells=block_cells))


def test_a_run_is_of_one_plane(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", panel=None, model_card={}) as writer:
        writer.start_region(region(0, z=1))
        with pytest.raises(ValueError, match=r"expected regions of one plane in a run, found r1 on z 0, t 2"):
            writer.start_region(region(1, t=2))
