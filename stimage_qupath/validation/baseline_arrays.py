"""Fitted baselines as plain arrays, small enough to lie in a model folder, and back.

Maps are kept in half precision, and log1p normalised counts as bytes: steps of 1/255 of the gene's largest value, far
below the spread of the ten neighbours that are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.validation.baselines import FittedBaselines, Outline, Spots
from stimage_qupath.validation.linear import LinearMap
from stimage_qupath.validation.log_counts import LogCounts

Arrays = dict[str, NDArray[Any]]

RANK = 48
MOST_COUNTS = 800_000
"""Normalised counts that are kept, one byte each."""
MAPS = ("ridge", "glm", "depth", "colour")
VECTORS = ("rates", "total_count", "sizes", "depth_line")
BYTE = 255


def to_arrays(fitted: FittedBaselines, train: Spots, *, seed: int) -> tuple[Arrays, dict[str, Any]]:
    """Return what :func:`from_arrays` builds the baselines from: arrays, and facts as JSON has them.

    Parameters
    ----------
    fitted, train
        The baselines and what they were fitted to.
    seed
        Of the training spots that are kept, where they are more than fit.
    """
    most = max(1, MOST_COUNTS // len(fitted.rates))
    small = fitted.reduced(train, rank=RANK, most_spots=most, seed=seed)
    arrays: Arrays = {name: getattr(small, name).astype(np.float32) for name in VECTORS}
    maps = {name: getattr(small, name) for name in MAPS if getattr(small, name) is not None}
    for name, found in {**maps, "log_counts": small.log_counts.mean}.items():
        arrays |= {f"{name}.{part}": getattr(found, part).astype(np.float16) for part in ("left", "right")}
        arrays |= {f"{name}.{part}": getattr(found, part).astype(np.float32) for part in ("centre", "mean")}
    arrays["log_counts.total_count"] = small.log_counts.total_count.astype(np.float32)
    arrays["to_components"] = small.to_components.astype(np.float16)
    arrays["components"] = small.components.astype(np.float16)
    top = np.maximum(small.normalised.max(axis=0), 1e-6)
    arrays["normalised"] = np.rint(small.normalised / top * BYTE).astype(np.uint8)
    arrays["normalised_top"] = top.astype(np.float32)
    arrays["section"] = small.section.astype(np.int16)
    if small.positions_um is not None:
        arrays["positions_um"] = small.positions_um.astype(np.float32)
    for index, outline in enumerate(small.outlines):
        arrays[f"outline.{index}"] = outline.mask.astype(np.uint8)
    facts = {
        "reference_total": small.reference_total,
        "mean_log_depth": small.mean_log_depth,
        "patients": [outline.patient for outline in small.outlines],
    }
    return arrays, facts


def from_arrays(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> FittedBaselines:
    """Return the baselines of a model folder.

    Raises
    ------
    ValueError
        Something is missing or does not fit.
    """
    try:
        maps = {name: _map(arrays, name) for name in MAPS if f"{name}.left" in arrays}
        vectors = {name: arrays[name].astype(np.float64) for name in VECTORS}
        positions = arrays.get("positions_um")
        return FittedBaselines(
            reference_total=float(facts["reference_total"]),
            mean_log_depth=float(facts["mean_log_depth"]),
            rates=vectors["rates"],
            total_count=vectors["total_count"],
            sizes=vectors["sizes"],
            depth_line=vectors["depth_line"],
            ridge=maps["ridge"],
            glm=maps["glm"],
            depth=maps["depth"],
            colour=maps.get("colour"),
            log_counts=LogCounts(_map(arrays, "log_counts"), arrays["log_counts.total_count"].astype(np.float64)),
            to_components=arrays["to_components"].astype(np.float64),
            components=arrays["components"].astype(np.float64),
            normalised=arrays["normalised"].astype(np.float64) / BYTE * arrays["normalised_top"].astype(np.float64),
            section=arrays["section"].astype(np.int64),
            positions_um=None if positions is None else positions.astype(np.float64),
            outlines=tuple(
                Outline(patient, arrays[f"outline.{index}"] > 0) for index, patient in enumerate(facts["patients"])
            ),
        )
    except (KeyError, TypeError) as error:
        msg = f"expected the baselines of a model, found them without {error}; train the model again"
        raise ValueError(msg) from error


def _map(arrays: Mapping[str, NDArray[Any]], name: str) -> LinearMap:
    return LinearMap(**{part: arrays[f"{name}.{part}"].astype(np.float64) for part in LinearMap.__dataclass_fields__})
