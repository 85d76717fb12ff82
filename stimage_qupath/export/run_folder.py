"""The run folder, written a block at a time and visible only when it is whole.

``cells.geojson.gz`` (for QuPath), ``cells.h5ad`` (the whole panel), ``cells.parquet`` (what QuPath got, as a table) and
``run.json`` hold the same nuclei in the same order. No time and no path stands in ``cells.*``: equal input gives equal
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from stimage_qupath import names
from stimage_qupath.errors import UnknownGeneError
from stimage_qupath.export.cells_geojson import GeojsonSink
from stimage_qupath.export.cells_h5ad import H5adSink
from stimage_qupath.export.cells_parquet import ParquetSink
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_reader import Run, read_run, what_is_foreign
from stimage_qupath.export.run_record import RegionSpan, region_record, run_json, to_json
from stimage_qupath.export.tables import (
    HIGH_LAYER,
    INTERVAL_QUANTITIES,
    Columns,
    Measurements,
    cell_columns,
    gene_columns,
    table_columns,
)
from stimage_qupath.geojson_dialect import Color
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.results import Cells, Panel, Prediction, Region

__all__ = ["RegionSpan", "Run", "RunWriter", "read_run"]

CHUNK_CELLS: Final = 10_000
UNITS: Final = {
    "X": "expected counts in the model's window at its reference depth",
    "aleatoric": "variance, counts^2",
    "epistemic": "variance, counts^2",
    "p05": "counts",
    "p95": "counts",
    "high": "probability that the rate is above the median of training",
    "spatial": "x and y of the nucleus in level-0 pixels",
}


@dataclass(frozen=True, slots=True)
class _Block:
    """Nuclei of one region, with their columns for each file."""

    cells: Cells
    prediction: Prediction | None
    measurements: Columns
    table: Columns
    obs: Columns


@dataclass(frozen=True, slots=True)
class _Sinks:
    """The three files of nuclei, open, and the measurements QuPath gets."""

    geojson: GeojsonSink
    parquet: ParquetSink
    h5ad: H5adSink
    measurements: tuple[str, ...]


class RunWriter:
    """Context manager that writes a run folder; :meth:`finish` makes it appear, anything else leaves no trace.

    Parameters
    ----------
    output
        Folder to make.
    panel
        Genes of the predictions' columns; None when nuclei are only segmented.
    genes
        Genes of the panel that QuPath and Parquet get; ``cells.h5ad`` always has them all.
    measurements
        ``short``: mean and both SDs of each gene; ``all``: p05 and p95 too.
    intervals
        Whether ``cells.h5ad`` gets the layers p05, p95 and high.
    force
        Whether an earlier run folder (or an empty folder) at ``output`` is replaced, at the very end. A folder that
        holds anything else is never touched.
    model_card
        JSON-able; goes into ``uns["stimage_qupath"]["card"]`` as text.
    own_objects
        False when the nuclei are the user's: they do not get the object version that marks ours.
    color_of_class
        Colours of cell classes in QuPath.
    chunk_cells
        Nuclei held in memory as text and tables at a time; what the files hold does not depend on it.

    Raises
    ------
    OutputExistsError
        There is something at ``output`` that may not be replaced.
    UnknownGeneError
        One of ``genes`` is not in the panel.
    """

    def __init__(
        self,
        output: Path,
        *,
        panel: Panel | None,
        genes: tuple[str, ...] = (),
        measurements: Measurements = "short",
        intervals: bool = False,
        force: bool = False,
        model_card: Mapping[str, object],
        own_objects: bool = True,
        color_of_class: Mapping[str, Color] | None = None,
        chunk_cells: int = CHUNK_CELLS,
    ) -> None:
        missing = [gene for gene in genes if panel is None or gene not in panel.genes]
        if missing:
            msg = f"expected genes of the model's panel, found {', '.join(missing)}; choose among its genes"
            raise UnknownGeneError(msg)
        self._panel = panel
        self._genes = tuple(dict.fromkeys(genes))
        self._measurements: Measurements = measurements
        self._layers = ("aleatoric", "epistemic", *((*INTERVAL_QUANTITIES, HIGH_LAYER) if intervals else ()))
        self._card = to_json(model_card, sort_keys=True).decode()
        self._own_objects = own_objects
        self._color_of_class = color_of_class
        self._chunk_cells = chunk_cells
        self._spans: list[RegionSpan] = []
        self._sinks: _Sinks | None = None
        self._abandon = ExitStack()
        self._folder = PartialFolder(output, force=force, why_keep=what_is_foreign)

    @property
    def folder(self) -> Path:
        """Where the files stand until :meth:`finish`; put pictures and the report here."""
        return self._folder.path

    def __enter__(self) -> Self:
        """Make the partial folder."""
        self._folder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove whatever was not finished."""
        self._abandon.close()
        self._folder.__exit__(kind, error, trace)

    def start_region(self, region: Region) -> None:
        """Say that the nuclei of ``region`` follow.

        Raises
        ------
        ValueError
            A region with this id was started before, or one of another plane.
        """
        if any(span.region.id == region.id for span in self._spans):
            msg = f"expected each region once, found {region.id} again"
            raise ValueError(msg)
        if any((span.region.z, span.region.t) != (region.z, region.t) for span in self._spans):
            msg = f"expected regions of one plane in a run, found {region.id} on z {region.z}, t {region.t}"
            raise ValueError(msg)
        done = sum(span.count for span in self._spans)
        self._spans.append(RegionSpan(region=region, first=done, count=0))

    def append(self, cells: Cells, prediction: Prediction | None) -> None:
        """Write nuclei of the region started last.

        Parameters
        ----------
        cells
            Nuclei; all blocks have the same measurements.
        prediction
            One row a nucleus, one column a gene of the panel; None exactly when there is no panel.

        Raises
        ------
        ValueError
            No region was started, or the prediction does not fit the nuclei or the panel.
        OutputError
            The disk is full or not writable.
        """
        if not self._spans:
            msg = "expected start_region before append, found no region"
            raise ValueError(msg)
        self._check(cells, prediction)
        for start in range(0, len(cells), self._chunk_cells):
            stop = min(start + self._chunk_cells, len(cells))
            part = cells.take(np.arange(start, stop))
            self._write(self._block(part, None if prediction is None else _rows(prediction, slice(start, stop))))

    def finish(self, record: Mapping[str, object]) -> Path:
        """Write ``run.json``, flush all to the disk, give the folder its name, and return that.

        Parameters
        ----------
        record
            JSON-able: versions, arguments, times. Counts, genes, measurements and regions are added to it.

        Raises
        ------
        OutputError
            The disk is full or not writable; nothing is left under the final name that was not there before.
        """
        with output_errors(self._folder.output):
            sinks = self._sinks or self._open(self._block(*_nothing(self._panel)))
            text = run_json(record, self._spans, genes=self._genes, measurements=sinks.measurements)
            regions = to_json([region_record(span, with_geometry=False) for span in self._spans]).decode()
            sinks.geojson.close()
            sinks.parquet.close()
            sinks.h5ad.close(uns={"stimage_qupath": {"card": self._card, "regions": regions, "units": UNITS}})
            (self.folder / names.RUN_JSON).write_bytes(text)
        return self._folder.publish()

    def _check(self, cells: Cells, prediction: Prediction | None) -> None:
        """Refuse a prediction that does not fit."""
        if (prediction is None) != (self._panel is None):
            msg = "expected a prediction exactly when there is a panel, found one without the other"
            raise ValueError(msg)
        if prediction is None or self._panel is None:
            return
        if prediction.mean.shape != (len(cells), len(self._panel)):
            msg = f"expected a prediction of shape {(len(cells), len(self._panel))}, found {prediction.mean.shape}"
            raise ValueError(msg)
        wanted = {*self._layers, *(INTERVAL_QUANTITIES if self._measurements == "all" else ())}
        missing = sorted(name for name in wanted if getattr(prediction, name) is None)
        if missing:
            msg = f"expected a prediction with {', '.join(missing)}, found none; predict with intervals"
            raise ValueError(msg)

    def _block(self, cells: Cells, prediction: Prediction | None) -> _Block:
        of_cell = cell_columns(cells, prediction)
        columns = dict(of_cell)
        if prediction is not None and self._panel is not None:
            columns |= gene_columns(prediction, panel=self._panel, genes=self._genes, measurements=self._measurements)
        table = table_columns(columns)
        if self._own_objects:
            version = np.full(len(cells), names.OBJECT_VERSION_VALUE, dtype=np.float32)
            columns = {**cells.measurements, names.OBJECT_VERSION: version, **columns}
        return _Block(cells, prediction, measurements=columns, table=table, obs=table_columns(of_cell))

    def _write(self, block: _Block) -> None:
        """Add a block to each file and to the count of its region."""
        span = self._spans[-1]
        with output_errors(self._folder.output):
            sinks = self._sinks = self._sinks or self._open(block)
            sinks.geojson.append(block.cells, block.measurements, plane=(span.region.z, span.region.t))
            sinks.parquet.append(block.cells, span.region.id, block.table)
            sinks.h5ad.append(block.cells, span.region.id, block.obs, block.prediction)
        first_id = span.first_id or (str(block.cells.ids[0]) if len(block.cells) else None)
        self._spans[-1] = replace(span, count=span.count + len(block.cells), first_id=first_id)

    def _open(self, block: _Block) -> _Sinks:
        """Open the three files with the columns of ``block``."""
        geojson = GeojsonSink(self.folder / names.CELLS_GEOJSON, color_of_class=self._color_of_class)
        self._abandon.callback(geojson.abandon)
        parquet = ParquetSink(self.folder / names.CELLS_PARQUET, columns=tuple(block.table))
        self._abandon.callback(parquet.abandon)
        h5ad = H5adSink(
            self.folder / names.CELLS_H5AD,
            genes=() if self._panel is None else self._panel.genes,
            layers=self._layers,
            columns=tuple(block.obs),
        )
        self._abandon.callback(h5ad.abandon)
        return _Sinks(geojson, parquet, h5ad, measurements=tuple(block.measurements))


def _rows(prediction: Prediction, rows: slice) -> Prediction:
    """Return some rows of a prediction."""
    return Prediction(
        mean=prediction.mean[rows],
        aleatoric=prediction.aleatoric[rows],
        epistemic=prediction.epistemic[rows],
        ood_score=prediction.ood_score[rows],
        p05=None if prediction.p05 is None else prediction.p05[rows],
        p95=None if prediction.p95 is None else prediction.p95[rows],
        high=None if prediction.high is None else prediction.high[rows],
    )


def _nothing(panel: Panel | None) -> tuple[Cells, Prediction | None]:
    """Return no nuclei and their prediction, whose columns a run without nuclei still has."""
    none = np.empty(0, dtype=object)
    cells = Cells(ids=none, polygons=none, centroids_px=np.empty((0, 2)))
    if panel is None:
        return cells, None
    matrix = np.empty((0, len(panel)), dtype=np.float32)
    score = np.empty(0, dtype=np.float32)
    return cells, Prediction(matrix, matrix, matrix, score, p05=matrix, p95=matrix, high=matrix)
