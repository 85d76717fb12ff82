"""QuPath's GeoJSON, versions 0.2 to 0.7: read with one clear error, written so that no QuPath from 0.4 on rejects it.

What QuPath adds to GeoJSON: coordinates are level-0 pixels with y down; ``plane`` and ``isEllipse`` stand inside the
geometry, ``nucleusGeometry`` beside it; ``properties`` hold ``objectType``, ``classification``, ``measurements``,
``isLocked`` and ``color``; children are nested in ``childObjects``. One bad feature makes QuPath refuse the whole file,
hence the care taken here with closed and valid rings, colours and finite numbers.
"""

from stimage_qupath.geojson_dialect.color import Color, default_color
from stimage_qupath.geojson_dialect.feature import Feature, read_features
from stimage_qupath.geojson_dialect.rings import valid_area
from stimage_qupath.geojson_dialect.small import region_feature, write_annotations
from stimage_qupath.geojson_dialect.stream import CellFeatureWriter

__all__ = [
    "CellFeatureWriter",
    "Color",
    "Feature",
    "default_color",
    "read_features",
    "region_feature",
    "valid_area",
    "write_annotations",
]
