"""Where the nuclei that drive a prediction lie: their share in each class, of each type and by shape of nucleus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.config import ExplainSettings, ValidateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_columns import NewColumns, add_columns
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.pipeline.labelling import read_labelling
from stimage_qupath.results import CancelCheck, never_cancelled, stop_if
from stimage_qupath.validation.annotations import Labelled, codes_of, false_discovery
from stimage_qupath.validation.enrichment import (
    HIGH_SHARE,
    Enrichment,
    between_blocks,
    high_nuclei,
    moran_range,
    within_blocks,
)

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

SHAPES: Final = {"area": names.AREA, "circularity": names.CIRCULARITY, "hematoxylin": names.HEMATOXYLIN_MEAN}
LEAST_TYPE: Final = 50
"""Nuclei of a type, and of all others, for it to be compared."""
KINDS: Final = ("classes", "cell types", "shapes")


def enrichment(
    finished: Run,
    labelled: Labelled,
    scored: Bool,
    *,
    block_um: float,
    permutations: int,
    seed: int,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any] | None:
    """Return the enrichment of nuclei of high attribution, None where nothing in the run is explained.

    Parameters
    ----------
    finished
        The run.
    labelled
        Classes of all its nuclei.
    scored
        (nucleus,) those that classes are compared among; types and shapes are compared among all.
    block_um
        Side of a spatial block at least; larger where the attribution of a gene reaches farther.
    permutations, seed
        Of the tests.
    cancelled
        Asked between genes.
    """
    genes = [gene for gene in finished.record.get("attribution", {}).get("genes", {}) if _has(finished, gene)]
    if not genes:
        return None
    table = finished.table()
    found: dict[str, dict[str, dict[str, Enrichment]]] = {kind: {} for kind in KINDS}
    blocks = {}
    for gene in genes:
        stop_if(cancelled)
        values = table[names.gene_column(gene, "attribution")].to_numpy(np.float64)
        known = np.isfinite(values)
        if not known.any():
            continue
        positions = labelled.positions_um[known]
        high, reach = high_nuclei(values[known]), moran_range(values[known], positions, seed=seed)
        side = max(block_um, reach)
        blocks[gene] = {"moran_range_um": reach, "block_um": side}
        compared = known & scored
        found["classes"][gene] = between_blocks(
            high[scored[known]], labelled.take(compared), block_um=side, permutations=permutations, seed=seed
        )
        groups = {"cell types": _types(table["cell_type"][known]), "shapes": _shapes(table[known])}
        for kind, of_kind in groups.items():
            found[kind][gene] = {
                name: within_blocks(high[fit], member[fit], positions[fit], block_um=side, seed=seed)
                for name, (member, fit) in of_kind.items()
            }
    return {
        "note": names.FAITHFUL_TO_MODEL,
        "high": f"the {HIGH_SHARE:.0%} of the nuclei with the largest attribution",
        "blocks": blocks,
        **{kind.replace(" ", "_"): _with_q(of_kind) for kind, of_kind in found.items()},
    }


def add_enrichment(settings: ExplainSettings, annotations: Path) -> dict[str, Any]:
    """Write the enrichment of a run's explained genes in a person's annotations into its ``attribution.json``.

    Parameters
    ----------
    settings
        Which run, and the seed.
    annotations
        GeoJSON exported from QuPath.

    Returns
    -------
    dict
        What was added, under ``enrichment``.

    Raises
    ------
    StimageError
        Of the kind that fits; the run is as it was then.
    """
    finished = read_run(settings.run)
    how = ValidateSettings(run=settings.run, annotations=annotations, rest="all", seed=settings.seed)
    centroids = finished.table(["x_px", "y_px"]).to_numpy(np.float64)
    labelling = read_labelling(annotations, how, finished, centroids)
    labelled = labelling.labelled(labelling.classes, centroids * float(finished.record["image"]["mpp"]))
    everyone = np.ones(len(centroids), dtype=bool)
    found = enrichment(
        finished, labelled, everyone, block_um=how.block_um, permutations=how.permutations, seed=how.seed
    )
    path = finished.path / names.ATTRIBUTION_JSON
    if found is None or not path.is_file():
        msg = f"expected a run with attributions at {finished.path}, found none; run explain with a gene"
        raise UsageError(msg)
    added = {"enrichment": {**found, "annotations": annotations.name}}
    content = to_json({**orjson.loads(path.read_bytes()), **added})
    add_columns(finished, NewColumns(measurements={}, files={names.ATTRIBUTION_JSON: content}))
    return added


def _has(finished: Run, gene: str) -> bool:
    return names.gene_measurement(gene, "attribution") in finished.record["measurements"]


def _types(column: Any) -> dict[str, tuple[Bool, Bool]]:
    """Return for each type with enough nuclei which are of it, and which have a type at all."""
    types = column.astype(object).where(column.notna(), None).tolist()
    there = sorted({name for name in types if name is not None})
    codes = codes_of(types, there)
    typed = codes >= 0
    members = {name: codes == code for code, name in enumerate(there)}
    enough = {name: m for name, m in members.items() if LEAST_TYPE <= m.sum() <= typed.sum() - LEAST_TYPE}
    return {name: (member, typed) for name, member in enough.items()}


def _shapes(table: Any) -> dict[str, tuple[Bool, Bool]]:
    """Return for each measure which nuclei are in its highest third, those of the lowest third beside them alone."""
    found = {}
    for name, measurement in SHAPES.items():
        column = names.TABLE_COLUMN[measurement]
        values = table[column].to_numpy(np.float64) if column in table else np.full(len(table), np.nan)
        if not np.isfinite(values).all() or not np.ptp(values):
            continue
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        found[f"high {name} against low"] = (values > high, (values > high) | (values <= low))
    return found


def _with_q(found: Mapping[str, Mapping[str, Enrichment]]) -> dict[str, dict[str, Any]]:
    """Return records with the p of all genes and groups of a kind adjusted together."""
    q = false_discovery({(gene, name): one.p for gene, of in found.items() for name, one in of.items()})
    return {
        gene: {name: {**one.to_dict(), "q": q[gene, name]} for name, one in of.items()} for gene, of in found.items()
    }
