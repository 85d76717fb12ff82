"""Nuclei of one slide -> expression of the slide, and how sure that is.

Symbols: nucleus ``i`` of ``n`` in a group, expected count ``mu_i``, aleatoric variance ``a_i`` and epistemic variance
``e_i`` of its prediction. The pseudobulk is the mean of ``mu_i``; nuclei are neither weighted nor left out.

- **Epistemic.** What the members disagree on they disagree on in every nucleus alike, so it does not average out.
Without
  the members' own predictions only a bound is known: the SD of a mean is at most the mean of the SDs, with equality
  when all nuclei err together. The bound is what is used.
- **Aleatoric.** Counts of a window scatter around what the model expects, and neighbouring nuclei share their window.
With
  ``o_ij`` the share of ``i``'s window that ``j``'s covers, and scatter that adds up over area, the mean over nuclei has
  the variance ``mean_i a_i x mean_ij o_ij``: it averages over ``1 / mean_ij o_ij`` independent windows, which is the
  tissue's area over a window's where nuclei are spread evenly and the tissue is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float64]

BINS_OF_WINDOW: Final = 16
"""Bins along a window's side: the mean overlap is then right to a few per cent."""
MOST_BINS: Final = 2048


@dataclass(frozen=True, slots=True)
class Pseudobulk:
    """One slide.

    Attributes
    ----------
    groups
        Names of the groups of nuclei.
    nuclei
        (group,) number of them with a prediction.
    mean
        (group, gene) expected counts; NaN for a group without nuclei.
    epistemic_sd
        (group, gene) counts; an upper bound.
    aleatoric
        (group, gene) variance of the mean, counts^2.
    windows
        (group,) effective number of independent windows, from 1 to ``nuclei``; NaN without nuclei.
    """

    groups: tuple[str, ...]
    nuclei: NDArray[np.int64]
    mean: Float
    epistemic_sd: Float
    aleatoric: Float
    windows: Float

    @property
    def sd(self) -> Float:
        """Root of both variances, (group, gene)."""
        return np.sqrt(self.epistemic_sd**2 + self.aleatoric)


class PseudobulkSum:
    """Running sums over blocks of nuclei.

    Parameters
    ----------
    groups
        Names of the groups.
    genes
        Number of genes.
    """

    def __init__(self, groups: Sequence[str], genes: int) -> None:
        self._groups = tuple(groups)
        shape = (len(self._groups), genes)
        self._mean, self._epistemic, self._aleatoric = (np.zeros(shape) for _ in range(3))
        self._nuclei = np.zeros(len(self._groups))

    def add(
        self,
        member: NDArray[np.bool_],
        *,
        mean: NDArray[np.float32],
        aleatoric: NDArray[np.float32],
        epistemic: NDArray[np.float32],
    ) -> None:
        """Add nuclei; those without a prediction (NaN) do not count.

        Parameters
        ----------
        member
            (nucleus, group) which nuclei belong to which groups.
        mean, aleatoric, epistemic
            (nucleus, gene) of the prediction.
        """
        known = np.isfinite(mean).all(axis=1)
        if not known.all():
            member, mean, aleatoric, epistemic = member[known], mean[known], aleatoric[known], epistemic[known]
        weight = member.T.astype(np.float64)
        self._nuclei += weight.sum(axis=1)
        self._mean += weight @ mean
        self._aleatoric += weight @ aleatoric
        self._epistemic += weight @ np.sqrt(np.maximum(epistemic, 0))

    def result(self, windows: Float) -> Pseudobulk:
        """Return the slide.

        Parameters
        ----------
        windows
            (group,) effective number of independent windows.
        """
        count = np.where(self._nuclei > 0, self._nuclei, np.nan)[:, None]
        return Pseudobulk(
            groups=self._groups,
            nuclei=self._nuclei.astype(np.int64),
            mean=self._mean / count,
            epistemic_sd=self._epistemic / count,
            aleatoric=self._aleatoric / count / windows[:, None],
            windows=windows,
        )


def effective_windows(positions_um: Float, window_um: float) -> float:
    """Return how many independent windows the square windows of some nuclei amount to: 1 over their mean overlap.

    ``o_ij = max(0, 1 - |dx| / L) max(0, 1 - |dy| / L)`` with ``L`` the window's side, averaged over all pairs, each
    nucleus with itself too. Nuclei are counted into bins first, so that no pair is looked at.

    Parameters
    ----------
    positions_um
        (nucleus, 2).
    window_um
        Side of the window.

    Returns
    -------
    float
        From 1 to the number of nuclei; NaN for no nuclei.
    """
    if not len(positions_um):
        return float("nan")
    corner = positions_um.min(axis=0)
    extent = positions_um.max(axis=0) - corner
    side = max(window_um / BINS_OF_WINDOW, float(extent.max()) / MOST_BINS)
    place = np.floor((positions_um - corner) / side).astype(np.intp)
    counts = np.zeros(place.max(axis=0) + 1)
    np.add.at(counts, (place[:, 0], place[:, 1]), 1.0)
    reach = int(np.ceil(window_um / side))
    kernel = np.maximum(0.0, 1 - np.abs(np.arange(-reach, reach + 1)) * side / window_um)
    covered = counts
    for axis in (0, 1):
        covered = ndimage.convolve1d(covered, kernel, axis=axis, mode="constant")
    overlap = float((counts * covered).sum()) / len(positions_um) ** 2
    return float(np.clip(1 / overlap, 1, len(positions_um)))
