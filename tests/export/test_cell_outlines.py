"""Outlines are read without parsing what follows them."""

from __future__ import annotations

import orjson
import pytest

from stimage_qupath.export.cell_outlines import outer_ring

OUTER = [[0.0, 0.0], [9.5, 0.0], [9.5, 8.25], [0.0, 0.0]]
HOLE = [[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
NUCLEUS = [[3.0, 3.0], [4.0, 3.0], [4.0, 4.0], [3.0, 3.0]]
ODD = {'"coordinates":[[[1,2]]]': 1.0, '"nucleusGeometry":{"coordinates":[[[7,7]]]}': 2.0}


@pytest.mark.parametrize("rings", [[OUTER], [OUTER, HOLE]])
@pytest.mark.parametrize("measurements", [{}, ODD])
def test_the_outer_ring_of_a_detection(rings, measurements):
    geometry = {"type": "Polygon", "coordinates": rings}
    properties = {"measurements": measurements}
    line = orjson.dumps({"type": "Feature", "id": "x", "geometry": geometry, "properties": properties})
    assert outer_ring(line) == OUTER


def test_of_a_cell_it_is_the_nucleus():
    geometry = {"type": "Polygon", "coordinates": [OUTER]}
    nucleus = {"type": "Polygon", "coordinates": [NUCLEUS]}
    feature = {"geometry": geometry, "nucleusGeometry": nucleus, "properties": {"measurements": ODD}}
    assert outer_ring(orjson.dumps(feature)) == NUCLEUS
