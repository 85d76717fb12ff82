"""Nuclei and predictions whose every value is a formula of their number."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.results import Cells, Panel, Prediction

CellsMaker = Callable[..., Cells]
PredictionMaker = Callable[..., Prediction]


@pytest.fixture(scope="session")
def panel() -> Panel:
    """Return four genes, one with a hyphen as HLA genes have."""
    return Panel(("ERBB2", "HLA-A", "CD3D", "KRT5"))


@pytest.fixture(scope="session")
def make_cells() -> CellsMaker:
    """Return a maker of nuclei ``first`` to ``first + n``: octagons along a line."""

    def make(n: int, first: int = 0, **fields: Any) -> Cells:
        i = np.arange(first, first + n)
        centroids = np.column_stack([20.0 * i + 10, 5.0 * (i % 7) + 10])
        angle = np.arange(8) * np.pi / 4
        ring = centroids[:, None, :] + 4 * np.column_stack([np.cos(angle), np.sin(angle)])
        area = {names.AREA: (i + 0.5).astype(np.float32), names.CIRCULARITY: np.full(n, 0.9, dtype=np.float32)}
        return Cells(
            ids=np.array([str(uuid.UUID(int=int(k) + 1)) for k in i], dtype=object),
            polygons=shapely.polygons(ring),
            centroids_px=centroids,
            measurements=area,
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def make_prediction(panel: Panel) -> PredictionMaker:
    """Return a maker of predictions: gene g of nucleus i has mean i + g / 10, variances 4 and 9 times its square."""

    def make(n: int, first: int = 0, *, intervals: bool = False) -> Prediction:
        i = np.arange(first, first + n)[:, None]
        mean = (i + np.arange(len(panel))[None, :] / 10).astype(np.float32)
        score = (np.arange(first, first + n) % 5 / 2).astype(np.float32)  # 0, 0.5, 1, 1.5, 2
        quantiles = {"p05": mean / 2, "p95": mean * 2, "high": mean / (1 + mean)} if intervals else {}
        return Prediction(mean=mean, aleatoric=4 * mean**2, epistemic=9 * mean**2, ood_score=score, **quantiles)

    return make
