"""Corrections to what an ensemble says of its own certainty, learnt from predictions of unseen sections.

Two, each optional and used in this order:

temperature
    ``r`` becomes ``r / T``: above 1 the distribution widens. One a gene, shrunk towards that of genes like it.
level map
    Where a share ``G(u)`` of the measured counts fell below the predicted level ``u``, the distribution function ``F``
    becomes ``G(F)`` (Kuleshov et al. 2018, arXiv:1807.00263; for counts by the randomised transform). One a stratum of
    training mean.

Both treat sections as exchangeable. They repair a model that is wrong on average over sections; they cannot know that
one new section lies off, and with few calibration patients there is no promise of coverage for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.models.count_distribution import check_level

_TAIL = (0.0025, 0.005, 0.01, 0.0175)
SHARES = np.concatenate([[0.0], _TAIL, np.linspace(0.025, 0.975, 39), [1 - t for t in reversed(_TAIL)], [1.0]])
"""Shares of counts at which a level map has its knots: those of the usual intervals, and closer in the tails."""
LEAST_PATIENTS = 10
"""Calibration patients under which conformal intervals are not called guaranteed."""


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What is changed before intervals are read off.

    Attributes
    ----------
    log_temperature
        (gene,) log of ``T``; zeros change nothing.
    stratum
        (gene,) row of ``level_map`` that serves the gene.
    level_map
        (stratum, share) predicted level ``u`` at which ``G(u)`` is each of :data:`SHARES`; strictly rising from 0 to 1.
    patients
        Calibration patients, for the sentence on the card.
    """

    log_temperature: NDArray[np.float32]
    stratum: NDArray[np.int64]
    level_map: NDArray[np.float64]
    patients: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit, and maps that are not distribution functions."""
        knots = self.level_map
        fits = self.log_temperature.shape == self.stratum.shape and self.stratum.ndim == 1
        fits = fits and knots.ndim == 2 and knots.shape[1] == len(SHARES)
        if not fits or not ((self.stratum >= 0) & (self.stratum < len(knots))).all():
            msg = (
                f"expected a temperature and a stratum below {len(knots)} for each gene and {len(SHARES)} knots, found "
                f"shapes {self.log_temperature.shape}, {self.stratum.shape}, {knots.shape} and strata "
                f"{np.unique(self.stratum)}"
            )
            raise ValueError(msg)
        if not (np.isfinite(self.log_temperature).all() and (np.diff(knots) > 0).all()):
            msg = (
                "expected finite temperatures and strictly rising level maps, found others; the model folder is damaged"
            )
            raise ValueError(msg)
        if not (np.allclose(knots[:, 0], 0) and np.allclose(knots[:, -1], 1)):
            msg = f"expected level maps from 0 to 1, found {knots[:, [0, -1]].tolist()}; the model folder is damaged"
            raise ValueError(msg)

    @classmethod
    def none(cls, genes: int) -> Recalibration:
        """Return the recalibration that changes nothing."""
        return cls(np.zeros(genes, np.float32), np.zeros(genes, np.int64), SHARES[None].copy(), 0)

    def apply(self, log_total_count: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log ``r / T``, (..., gene); variances follow from it."""
        return np.asarray(log_total_count - self.log_temperature, dtype=np.float32)

    def cdf(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return ``G(F)`` of distribution functions, (..., gene)."""
        out = np.empty(values.shape)
        for row, levels in enumerate(self.level_map):
            genes = self.stratum == row
            out[..., genes] = np.interp(values[..., genes], levels, SHARES)
        return out

    def levels(self, level: float) -> NDArray[np.float64]:
        """Return the level to ask of the model so that the answer is the quantile of ``level``, (gene,).

        ``G`` is inverted: the smallest count with ``G(F(y)) >= level`` has ``F(y)`` at least this.
        """
        wanted = float(check_level(level))
        inverse = np.array([np.interp(wanted, SHARES, levels) for levels in self.level_map])
        # Open ends: a level of 1 is reached by no count.
        return np.asarray(np.clip(inverse, 1e-9, 1 - 1e-9)[self.stratum])

    def take(self, columns: NDArray[np.intp]) -> Recalibration:
        """Return the recalibration of some genes, in that order."""
        return Recalibration(self.log_temperature[columns], self.stratum[columns], self.level_map, self.patients)

    @property
    def sentence(self) -> str:
        """What the card says of it."""
        said = (
            f"Recalibrated on out-of-fold predictions of the training sections of {self.patients} "
            f"{'patient' if self.patients == 1 else 'patients'}."
        )
        if self.patients < LEAST_PATIENTS:
            few = f"Fewer than {LEAST_PATIENTS} calibration patients"
            return f"{said} {few}: coverage in other patients is not guaranteed."
        return f"{said} Coverage holds on average over patients and sections like these, not for each one."

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that stand beside the weights."""
        return {
            "recalibration_log_temperature": self.log_temperature,
            "recalibration_stratum": self.stratum,
            "recalibration_level_map": self.level_map,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], *, patients: int) -> Recalibration:
        """Return what :meth:`tensors` gave; KeyError names an array that is missing."""
        return cls(
            log_temperature=tensors["recalibration_log_temperature"],
            stratum=tensors["recalibration_stratum"],
            level_map=tensors["recalibration_level_map"],
            patients=patients,
        )
