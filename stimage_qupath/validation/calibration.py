"""Whether the intervals hold what they promise, for counts at the depth they were measured at.

A count distribution has steps, so that a 90 % interval cannot hold exactly 90 %. Randomising within the step removes
that: with ``V`` uniform, ``u = F(y - 1) + V (F(y) - F(y - 1))`` is uniform exactly when the distribution is right
(Brockwell 2007, doi 10.1016/j.spl.2007.02.008), and a central interval of level ``a`` covers ``|u - 1/2| <= a / 2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.validation.predictive import LEVELS, Scored

STRATA = ((0.0, 0.1), (0.1, 1.0), (1.0, 10.0), (10.0, np.inf))
"""Mean training count of a gene, lower bound included."""
PIT_BINS = 20


def randomised_pit(cdf: NDArray[np.float64], cdf_below: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Return the randomised probability integral transform of each count.

    Parameters
    ----------
    cdf, cdf_below
        (spot, gene) ``F(y)`` and ``F(y - 1)`` of the predicted distribution at the measured count ``y``.
    seed
        Of the uniform numbers.
    """
    return cdf_below + np.random.default_rng(seed).random(cdf.shape) * (cdf - cdf_below)


def coverage(pit: NDArray[np.float64]) -> dict[str, float]:
    """Return the share of counts inside the central interval of each level."""
    return {f"{level:g}": float((np.abs(pit - 0.5) <= level / 2).mean()) for level in LEVELS}


def coverage_by_stratum(pit: NDArray[np.float64], training_mean: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Return coverage apart for genes of low, middle and high mean training count; empty strata are left out.

    Parameters
    ----------
    pit
        (spot, gene).
    training_mean
        (gene,) mean count in the training spots.
    """
    found = {}
    for low, high in STRATA:
        genes = (training_mean >= low) & (training_mean < high)
        if genes.any():
            found[f"{low:g}-{high:g}"] = {"genes": int(genes.sum()), **coverage(pit[:, genes])}
    return found


def pit_histogram(pit: NDArray[np.float64]) -> list[float]:
    """Return the share of counts in each of twenty equal bins of the PIT; flat at 0.05 when all is right."""
    counts, _ = np.histogram(pit, bins=PIT_BINS, range=(0, 1))
    return [float(share) for share in counts / max(pit.size, 1)]


def plain_coverage(scored: Scored) -> dict[str, dict[str, float]]:
    """Return the share of counts that lie in the central interval of each level, beside what the model itself expects.

    Counts have steps, so that both are above the level; they should be equal to each other.
    """
    return {
        f"{level:g}": {"found": float(inside.mean()), "expected": float(scored.expected_inside[level].mean())}
        for level, inside in scored.inside.items()
    }


def calibration_figures(scored: Scored, training_mean: NDArray[np.float64], *, seed: int) -> dict[str, Any]:
    """Return everything that is said of the calibration of one method on one section.

    Parameters
    ----------
    scored
        Of its counts, at the depth they were measured at.
    training_mean
        (gene,) mean count in the training spots.
    seed
        Of the randomisation.

    Returns
    -------
    dict
        ``coverage`` (randomised, pooled), ``coverage_by_training_mean``, ``plain_coverage``, ``pit_histogram``.
    """
    pit = randomised_pit(scored.cdf, scored.cdf_below, seed=seed)
    return {
        "coverage": coverage(pit),
        "coverage_by_training_mean": coverage_by_stratum(pit, training_mean),
        "plain_coverage": plain_coverage(scored),
        "pit_histogram": pit_histogram(pit),
    }
