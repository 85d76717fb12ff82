"""A run as SpatialData: outlines, centroids, regions and the table in one Zarr store (Marconato et al. 2024).

Needs the extra ``spatial``; reference doi 10.1038/s41592-024-02212-x. Two frames: ``global``, level-0 pixels of the
image as QuPath shows it, and ``um``. SpatialData holds shapes in memory, so that this export does too.
"""

from __future__ import annotations

import secrets
import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely

from stimage_qupath import names
from stimage_qupath.errors import MissingPartError, OutputError, OutputExistsError
from stimage_qupath.export.cell_outlines import read_outlines
from stimage_qupath.export.run_blocks import Selection, blocks
from stimage_qupath.export.tables import SHORT_QUANTITIES, table_column
from stimage_qupath.geojson_dialect.disk import output_errors

INSTALL: Final = 'pip install "stimage-qupath[spatial]"'
NUCLEI: Final = "nuclei"
CENTROIDS: Final = "centroids"
REGIONS: Final = "regions"
TABLE: Final = "table"
PIXELS: Final = "global"
MICROMETRES: Final = "um"
STORE_FILES: Final = frozenset({"zarr.json", ".zgroup", ".zattrs"})


def write_spatialdata(path: Path, chosen: Selection, *, force: bool = False) -> int:
    """Write the store, read it back, and give it its name; return its number of nuclei.

    Parameters
    ----------
    path
        Folder to make, by custom ``NAME.zarr``.
    chosen
        Nuclei and genes; the table's ``X`` is the mean, its layers are the SDs.
    force
        Whether an earlier store at ``path`` is replaced; nothing else ever is.

    Raises
    ------
    MissingPartError
        SpatialData is not installed.
    OutputExistsError
        There is something at ``path`` that may not be replaced.
    OutputError
        The disk is full or not writable, or what was written does not read back.
    """
    try:
        import spatialdata
    except ImportError as error:
        msg = f"expected the package spatialdata to write {path.name}, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    refuse_folder(path, force=force)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}{names.PARTIAL_SUFFIX}")
    with output_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, on every write
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _store(chosen).write(draft)
            _check(spatialdata.read_zarr(draft), chosen, path)
            if path.exists():
                shutil.rmtree(path)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return chosen.nuclei


def refuse_folder(path: Path, *, force: bool) -> None:
    """Refuse an output that is there already, but for an earlier store that may be replaced."""
    if not path.exists():
        return
    if not path.is_dir() or not any((path / name).is_file() for name in STORE_FILES):
        msg = f"expected no {path} yet, or an earlier store, found something else; choose another output"
        raise OutputExistsError(msg)
    if not force:
        msg = f"expected no {path} yet, found one; choose another output or force its replacement (--force)"
        raise OutputExistsError(msg)


def _store(chosen: Selection) -> Any:
    """Return the whole of it in memory."""
    import geopandas as gpd
    from spatialdata import SpatialData
    from spatialdata.models import PointsModel, ShapesModel
    from spatialdata.transformations import Identity, Scale

    mpp = float(chosen.finished.record["image"]["mpp"])
    frames = {PIXELS: Identity(), MICROMETRES: Scale([mpp, mpp], axes=("x", "y"))}
    keys, columns = _rows(chosen)
    outlines = gpd.GeoDataFrame(geometry=_outlines(chosen), index=pd.Index(keys["cell_id"].to_numpy(), name=None))
    areas = gpd.GeoDataFrame(
        {
            "name": [span.region.name or "" for span in chosen.spans],
            "classification": [span.region.classification or "" for span in chosen.spans],
        },
        geometry=[span.region.geometry for span in chosen.spans],
        index=[span.region.id for span in chosen.spans],
    )
    points = pd.DataFrame({"x": keys["x_px"].to_numpy(), "y": keys["y_px"].to_numpy()})
    return SpatialData(
        shapes={
            NUCLEI: ShapesModel.parse(outlines, transformations=dict(frames)),
            REGIONS: ShapesModel.parse(areas, transformations=dict(frames)),
        },
        points={CENTROIDS: PointsModel.parse(points, transformations=dict(frames))},
        tables={TABLE: _table(chosen, keys, columns)},
    )


def _rows(chosen: Selection) -> tuple[pd.DataFrame, dict[str, Any]]:
    found = list(blocks(chosen))
    if not found:
        empty = pd.DataFrame({name: [] for name in ("cell_id", "region_id", "cell_type", "x_px", "y_px")})
        return empty, {name: np.empty(0, np.float32) for name in chosen.measurements}
    keys = pd.concat([block.keys for block in found], ignore_index=True)
    return keys, {n: np.concatenate([block.columns[n] for block in found]) for n in chosen.measurements}


def _outlines(chosen: Selection) -> Any:
    vertices, starts = read_outlines(chosen.finished.geojson_path)
    rows = np.concatenate([np.arange(s.first, s.first + s.count) for s in chosen.spans] or [np.empty(0, int)])
    counts = np.diff(starts)[rows]
    index = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows] or [np.empty(0, int)])
    ring = np.repeat(np.arange(len(rows)), counts)
    return shapely.polygons(shapely.linearrings(vertices[index].astype(np.float64), indices=ring))


def _table(chosen: Selection, keys: pd.DataFrame, columns: dict[str, Any]) -> Any:
    import anndata as ad
    from spatialdata.models import TableModel

    genes = [n.removeprefix(names.PREFIX).removesuffix(": mean") for n in columns if n.endswith(": mean")]
    of = {q: [columns[names.gene_measurement(gene, q)] for gene in genes] for q in SHORT_QUANTITIES}
    matrices = {q: np.column_stack(v) if v else np.empty((len(keys), 0), np.float32) for q, v in of.items()}
    used = {names.gene_measurement(gene, q) for gene in genes for q in SHORT_QUANTITIES}
    obs = pd.DataFrame({table_column(n): v for n, v in columns.items() if n not in used})
    obs["region_id"] = pd.Categorical(keys["region_id"])
    obs["cell_type"] = pd.Categorical(keys["cell_type"])
    obs["cell_id"] = keys["cell_id"].to_numpy()
    obs["shapes"] = pd.Categorical([NUCLEI] * len(keys), categories=[NUCLEI])
    obs.index = pd.Index(keys["cell_id"].to_numpy(), name=None)
    record = chosen.finished.record
    table = ad.AnnData(
        matrices["mean"],
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        layers={table_column(q): m for q, m in matrices.items() if q != "mean"},
        obsm={"spatial": keys[["x_px", "y_px"]].to_numpy(np.float64)},
        uns={"stimage_qupath": {"research_use": str(record.get("research_use") or ""), "units": "counts, pixels"}},
    )
    return TableModel.parse(table, region=NUCLEI, region_key="shapes", instance_key="cell_id")


def _check(store: Any, chosen: Selection, path: Path) -> None:
    """Refuse a store that does not hold what was to be written."""
    wanted = {"nuclei": chosen.nuclei, "rows of the table": chosen.nuclei, "regions": len(chosen.spans)}
    found = {"nuclei": len(store[NUCLEI]), "rows of the table": store[TABLE].n_obs, "regions": len(store[REGIONS])}
    frames = set(store.coordinate_systems)
    if wanted != found or not frames >= {PIXELS, MICROMETRES}:
        msg = f"expected {wanted} in {path.name} read back, found {found} in {sorted(frames)}; write it again"
        raise OutputError(msg)
