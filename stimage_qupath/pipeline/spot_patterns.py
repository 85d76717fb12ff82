"""Whether predictions have the patterns in space that the measurement has, gene by gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.spots.residuals import pearson_residuals
from stimage_qupath.spots.spatial_genes import NEIGHBOURS, neighbour_weights
from stimage_qupath.validation.expression import Measured
from stimage_qupath.validation.spatial import bivariate_moran, moran_test

Float = NDArray[np.float64]

FALSE_DISCOVERIES: Final = 0.05


@dataclass(frozen=True, slots=True)
class SpotPatterns:
    """Moran's I of each gene over the spots of a section.

    Attributes
    ----------
    measured
        (gene,) of Pearson residuals of the counts: depth has a pattern of its own.
    predicted
        (gene,) of the log of the predicted mean.
    both
        (gene,) bivariate: how far the neighbours' residuals follow the prediction of a spot.
    patterned
        (gene,) whether the measurement has a pattern, at 5 % false discoveries.
    """

    measured: Float
    predicted: Float
    both: Float
    patterned: NDArray[np.bool_]

    def figures(self) -> dict[str, Any]:
        """Return what ``evaluation.json`` says of them; ``agreement`` is the rank correlation over genes."""
        varies = len(self.measured) > 2 and np.ptp(self.measured) > 0 and np.ptp(self.predicted) > 0
        agreement = float(stats.spearmanr(self.measured, self.predicted).statistic) if varies else None
        return {
            "neighbours": NEIGHBOURS,
            "moran_measured_mean": float(self.measured.mean()),
            "moran_predicted_mean": float(self.predicted.mean()),
            "bivariate_moran_mean": float(self.both.mean()),
            "measured_patterned": float(self.patterned.mean()),
            "agreement": agreement,
        }


def spot_patterns(measured: Measured, rates: Float, predicted_mean: Float) -> SpotPatterns | None:
    """Return the patterns of a section, or None where it has too few spots to have neighbours.

    Parameters
    ----------
    measured
        Counts of the scored genes.
    rates
        (gene,) of the training data.
    predicted_mean
        (spot, gene) at reference depth.
    """
    if len(measured.totals) <= NEIGHBOURS + 1:
        return None
    weights = neighbour_weights(measured.positions_um)
    counts = np.asarray(measured.counts, dtype=np.float64)
    residuals = pearson_residuals(counts, measured.totals, rates)
    logs = np.log(np.maximum(predicted_mean, 1e-9))
    test = moran_test(residuals, weights)
    return SpotPatterns(
        measured=test.value,
        predicted=moran_test(logs, weights).value,
        both=bivariate_moran(logs, residuals, weights),
        patterned=(test.q <= FALSE_DISCOVERIES) & (test.value > test.expected),
    )
