"""A finished run, or some regions and genes of it, read back a block of nuclei at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.errors import AnnotationError, UnknownGeneError, UsageError
from stimage_qupath.export.run_reader import Run
from stimage_qupath.export.run_record import RegionSpan
from stimage_qupath.export.tables import GENE_QUANTITIES, KEY_COLUMNS, SHORT_QUANTITIES, table_column

ROWS: Final = 10_000
"""Nuclei of a block."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of a run is exported.

    Attributes
    ----------
    finished
        The run.
    spans
        Regions, in file order.
    measurements
        QuPath's names of what is exported of each nucleus, in QuPath's order.
    panel_genes
        Genes among them that only ``cells.h5ad`` holds.
    """

    finished: Run
    spans: tuple[RegionSpan, ...]
    measurements: tuple[str, ...]
    panel_genes: tuple[str, ...]

    @property
    def nuclei(self) -> int:
        """How many there are."""
        return sum(span.count for span in self.spans)


@dataclass(frozen=True, slots=True)
class RunBlock:
    """Some nuclei of one region.

    Attributes
    ----------
    span
        Their region.
    first
        Row of the first one in the run.
    keys
        One row a nucleus: ``cell_id``, ``region_id``, ``cell_type``, ``x_px``, ``y_px``.
    columns
        Measurement to (nucleus,) float32.
    """

    span: RegionSpan
    first: int
    keys: pd.DataFrame
    columns: Mapping[str, NDArray[np.float32]]


def select(finished: Run, *, regions: Sequence[str] = (), genes: Sequence[str] = ()) -> Selection:
    """Return the part of a run that ``regions`` (ids or names; none: all) and ``genes`` (none: those written) choose.

    Raises
    ------
    AnnotationError
        A region is not in the run.
    UnknownGeneError
        A gene is not in the run's panel.
    UsageError
        Genes are asked for, and the run holds nuclei alone.
    """
    written = [str(name) for name in finished.record["measurements"] if name != names.OBJECT_VERSION]
    if not genes:
        return Selection(finished, select_spans(finished, regions), tuple(written), ())
    asked = tuple(dict.fromkeys(genes))
    kept = [name for name in written if _gene_of(name) is None or _gene_of(name) in asked]
    further = tuple(gene for gene in asked if names.gene_measurement(gene, "mean") not in written)
    panel_index(finished, further)
    kept += [names.gene_measurement(gene, quantity) for gene in further for quantity in SHORT_QUANTITIES]
    return Selection(finished, select_spans(finished, regions), tuple(kept), further)


def select_spans(finished: Run, regions: Sequence[str]) -> tuple[RegionSpan, ...]:
    """Return the regions of those ids or names, in file order; all of them when none is given."""
    if not regions:
        return finished.spans
    keys = [{span.region.id, span.region.name} for span in finished.spans]
    missing = [region for region in regions if not any(region in key for key in keys)]
    if missing:
        there = ", ".join(span.region.name or span.region.id for span in finished.spans[:10])
        msg = f"expected regions of the run by id or name, found {', '.join(missing)}; it has {there}"
        raise AnnotationError(msg)
    return tuple(span for span, key in zip(finished.spans, keys, strict=True) if not key.isdisjoint(regions))


def panel_index(finished: Run, genes: Sequence[str]) -> NDArray[np.intp]:
    """Return the columns of ``genes`` in ``cells.h5ad``; errors as :func:`select`."""
    if not genes:
        return np.empty(0, dtype=np.intp)
    with h5py.File(finished.h5ad_path, "r") as file:
        if "X" not in file:
            msg = f"expected a run with predictions at {finished.path}, found nuclei alone; leave the genes out"
            raise UsageError(msg)
        panel = {gene: i for i, gene in enumerate(file["var"]["gene"].asstr()[:])}
    missing = [gene for gene in genes if gene not in panel]
    if missing:
        msg = f"expected genes of the run's panel of {len(panel)}, found {', '.join(missing)}; see {finished.h5ad_path}"
        raise UnknownGeneError(msg)
    return np.array([panel[gene] for gene in genes], dtype=np.intp)


def blocks(chosen: Selection, *, rows: int = ROWS) -> Iterator[RunBlock]:
    """Yield the nuclei of a selection in file order, at most ``rows`` of one region at a time."""
    finished = chosen.finished
    index = panel_index(finished, chosen.panel_genes)
    there = [name for name in chosen.measurements if _gene_of(name) not in chosen.panel_genes]
    column_of = {name: table_column(name) for name in there}
    with pq.ParquetFile(finished.parquet_path) as parquet, h5py.File(finished.h5ad_path, "r") as h5ad:
        columns = [*KEY_COLUMNS, *column_of.values()]
        start = 0
        for batch in parquet.iter_batches(batch_size=rows, columns=columns):
            frame = batch.to_pandas()
            for span in chosen.spans:
                low, high = max(span.first, start), min(span.first + span.count, start + len(frame))
                if low >= high:
                    continue
                part = frame.iloc[low - start : high - start]
                values = {name: part[column].to_numpy(np.float32) for name, column in column_of.items()}
                values |= _of_panel(h5ad, slice(low, high), chosen.panel_genes, index)
                yield RunBlock(span, low, part[list(KEY_COLUMNS)], {n: values[n] for n in chosen.measurements})
            start += len(frame)


def _of_panel(
    h5ad: h5py.File, rows: slice, genes: Sequence[str], index: NDArray[np.intp]
) -> dict[str, NDArray[np.float32]]:
    """Return mean and both SDs of genes that the table lacks."""
    if not genes:
        return {}
    found: dict[str, Any] = {"mean": h5ad["X"][rows][:, index]}
    for name in ("aleatoric", "epistemic"):
        found[f"{name} SD"] = np.sqrt(np.maximum(h5ad["layers"][name][rows][:, index], 0))
    return {
        names.gene_measurement(gene, quantity): np.asarray(found[quantity][:, i], dtype=np.float32)
        for i, gene in enumerate(genes)
        for quantity in SHORT_QUANTITIES
    }


def _gene_of(measurement: str) -> str | None:
    """Return the gene of a measurement, or None for one of the nucleus itself."""
    text = measurement.removeprefix(names.PREFIX)
    gene, _, quantity = text.rpartition(": ")
    return gene if text != measurement and gene and quantity in GENE_QUANTITIES else None
