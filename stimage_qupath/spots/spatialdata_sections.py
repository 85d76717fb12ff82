"""SpatialData: one Zarr store with tables, shapes and the frames they lie in (Marconato et al. 2024).

Needs the extra ``spatial``; reference doi 10.1038/s41592-024-02212-x.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import MissingPartError
from stimage_qupath.spots.anndata_sections import from_anndata
from stimage_qupath.spots.measurement import Measurement
from stimage_qupath.spots.source import Source

INSTALL: Final = 'pip install "stimage-qupath[spatial]"'


def read_spatialdata(source: Source) -> Measurement:
    """Read the table of a store, each row at the centroid of its shape in the frame of the image.

    ``counts`` is the ``.zarr`` folder. The frame is the column ``coordinate_system`` of the dataset table, ``global``
    unless it says otherwise; its unit must be pixels of the image.

    Raises
    ------
    MissingPartError
        SpatialData is not installed.
    ValueError
        The store lacks the table, the frame, or shapes.
    """
    try:
        import spatialdata
    except ImportError as error:
        msg = f"expected the package spatialdata to read {source.counts.name}, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    store = spatialdata.read_zarr(source.counts)
    table = _table(store, source)
    annotated = table.uns.get("spatialdata_attrs", {})
    regions = annotated.get("region")
    if not regions:
        msg = f"expected a table that annotates shapes in {source.counts.name}, found one that annotates nothing"
        raise ValueError(msg)
    if source.coordinate_system not in store.coordinate_systems:
        msg = (
            f"expected the coordinate system '{source.coordinate_system}' in {source.counts.name}, found "
            f"{', '.join(store.coordinate_systems)}; name the one of the image in the column coordinate_system"
        )
        raise ValueError(msg)
    positions = np.full((table.n_obs, 2), np.nan)
    for region in [regions] if isinstance(regions, str) else regions:
        rows = np.flatnonzero(table.obs[annotated["region_key"]].astype(str) == region)
        centres = spatialdata.get_centroids(store[region], coordinate_system=source.coordinate_system)
        positions[rows] = _in_order(centres, table.obs[annotated["instance_key"]].iloc[rows], region)
    return from_anndata(table, source.counts.name, kind=source.kind, positions_px=positions)


def _table(store: Any, source: Source) -> Any:
    names = list(store.tables)
    if len(names) != 1 and "table" not in names:
        msg = f"expected one table, or one called 'table', in {source.counts.name}, found {', '.join(names) or 'none'}"
        raise ValueError(msg)
    return store.tables[names[0] if len(names) == 1 else "table"]


def _in_order(centres: Any, instances: Any, region: str) -> NDArray[np.float64]:
    """Return the centroids in the order of the table's rows."""
    frame = centres.compute() if hasattr(centres, "compute") else centres
    found = frame.index.get_indexer(instances)
    if (found < 0).any():
        msg = f"expected a shape in '{region}' for every row of the table, found {(found < 0).sum()} rows without one"
        raise ValueError(msg)
    return np.asarray(frame[["x", "y"]].to_numpy(dtype=np.float64)[found])
