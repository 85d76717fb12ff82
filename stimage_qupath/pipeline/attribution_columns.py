"""Explained blocks, gathered, and what of them goes into the run's files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.config import ExplainSettings
from stimage_qupath.export.run_columns import NewColumns
from stimage_qupath.export.run_reader import Run
from stimage_qupath.export.run_record import to_json


class Gathered:
    """Attributions of a run's nuclei and of the background between them.

    Parameters
    ----------
    cells
        Number of nuclei.
    genes
        Explained genes.
    """

    def __init__(self, cells: int, genes: tuple[str, ...]) -> None:
        self.genes = genes
        self.value = np.full((cells, len(genes)), np.nan, dtype=np.float32)
        self.sd = np.full((cells, len(genes)), np.nan, dtype=np.float32)
        self.area_um2 = np.full(cells, np.nan, dtype=np.float32)
        self._background: list[NDArray[np.float64]] = []
        self._contributed, self._difference = np.zeros((2, len(genes)))
        self._missed = np.zeros(len(genes))
        self._amount = np.zeros((2, len(genes)))

    def add(self, block: dict[str, NDArray[Any]]) -> None:
        """Take the arrays of one block."""
        nuclei = block["nuclei"]
        self.value[nuclei] = block["value"][: len(nuclei)]
        self.sd[nuclei] = block["sd"][: len(nuclei)]
        self.area_um2[nuclei] = block["area_um2"][: len(nuclei)]
        rest = slice(len(nuclei), None)
        parts = (block["background_px"], block["area_um2"][rest, None], block["value"][rest])
        self._background.append(np.concatenate(parts, axis=1))
        self._contributed += block["contributed"]
        self._difference += block["difference"]
        self._missed += np.abs(block["contributed"] - block["difference"])
        self._amount += block["amount"]

    def by_gene(self, about: dict[str, Any], *, promises_completeness: bool) -> dict[str, Any]:
        """Return, for each gene, ``about`` and what the blocks say together."""
        return {
            gene: {
                **about,
                "completeness": {
                    "promised": promises_completeness,
                    "contributed": self._contributed[k],
                    "difference": self._difference[k],
                    "relative_gap": self._missed[k] / max(abs(self._difference[k]), 1e-12),
                },
                "background_share": self._amount[1, k] / max(self._amount[:, k].sum(), 1e-12),
                "nuclei": int(np.isfinite(self.value[:, k]).sum()),
            }
            for k, gene in enumerate(self.genes)
        }

    def background(self) -> pd.DataFrame:
        """Return the cells of background: middle, area and the attribution of each gene."""
        columns = ["x_px", "y_px", "area_um2", *(names.gene_column(gene, "attribution") for gene in self.genes)]
        return pd.DataFrame(np.concatenate([np.empty((0, len(columns))), *self._background]), columns=columns)


def new_columns(
    finished: Run,
    settings: ExplainSettings,
    gathered: Gathered,
    record: dict[str, Any],
    pictures: Mapping[str, bytes] = MappingProxyType({}),
) -> NewColumns:
    """Return everything that is added to the run.

    Parameters
    ----------
    finished
        The run; what it holds of genes explained before stays.
    settings
        Whether there is a difference of two genes.
    gathered
        Attributions.
    record
        Goes into ``attribution.json``, with the genes explained before.
    pictures
        Further files, by name.
    """
    measurements: dict[str, NDArray[np.float32]] = {}
    tables: dict[str, NDArray[np.float32]] = {}
    layers: dict[str, dict[str, NDArray[np.float32]]] = {"attribution": {}, "attribution_sd": {}}
    with_sd = bool(np.isfinite(gathered.sd).any())
    for k, gene in enumerate(gathered.genes):
        measurements[names.gene_measurement(gene, "attribution")] = gathered.value[:, k]
        layers["attribution"][gene] = gathered.value[:, k]
        if with_sd:
            measurements[names.gene_measurement(gene, "attribution SD")] = gathered.sd[:, k]
            layers["attribution_sd"][gene] = gathered.sd[:, k]
        per_area = gathered.value[:, k] / np.where(gathered.area_um2 > 0, gathered.area_um2, np.nan)
        tables[names.gene_column(gene, "attribution_per_um2")] = per_area.astype(np.float32)
    if settings.difference:
        name = names.gene_measurement(" - ".join(settings.difference), "attribution")
        measurements[name] = difference_map(gathered, settings.difference)
    genes = {**finished.record.get("attribution", {}).get("genes", {}), **record["genes"]}
    whole = {**record, "genes": genes}
    kept = {key: whole[key] for key in ("note", "research_use", "value", "unit", "genes")}
    buffer = io.BytesIO()
    gathered.background().to_parquet(buffer, index=False)
    files = {names.ATTRIBUTION_JSON: to_json(whole), names.ATTRIBUTION_BACKGROUND: buffer.getvalue()}
    files |= pictures
    return NewColumns(
        measurements=measurements,
        layers={name: columns for name, columns in layers.items() if columns},
        tables=tables,
        record={"attribution": kept},
        files=files,
    )


def difference_map(gathered: Gathered, pair: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the first gene's attribution minus the second's, each over its root mean square over the nuclei.

    Genes differ in how far their log means can be driven; divided so, 1 is a nucleus of usual weight for either.
    """
    scaled = []
    for gene in pair:
        value = gathered.value[:, gathered.genes.index(gene)].astype(np.float64)
        size = np.sqrt(np.nanmean(value**2)) if np.isfinite(value).any() else 1.0
        scaled.append(value / (size or 1.0))
    return np.asarray(scaled[0] - scaled[1], dtype=np.float32)
