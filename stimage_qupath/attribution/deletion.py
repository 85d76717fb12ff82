"""Deletion and insertion: nuclei painted over, and restored, in the order of their attribution.

If an attribution is faithful, painting over the nuclei that it puts first lowers the prediction more than painting over
as much of others, and restoring them first raises it more (Samek et al. 2017, doi 10.1109/TNNLS.2016.2599820; Petsiuk,
Das and Saenko 2018, https://arxiv.org/abs/1806.07421). What is counted as done is the area that was painted, not the
number of nuclei, since large nuclei do more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.repainted import Bounds, Repainted

SHARES: Final = (0.05, 0.1, 0.2, 0.4)
"""Of the area of the block's nuclei, at which the prediction is noted: beyond one half, any two orders share nuclei."""
TRIES: Final = 20
"""Rounds in which random regions are placed before they are taken as they are."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean log mean of a block at each share of painted, or restored, nuclear area.

    Attributes
    ----------
    deletion
        (share, gene): with the first nuclei painted over.
    insertion
        (share, gene): with all nuclei painted over but the first.
    """

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    def lead(self, control: Curve) -> NDArray[np.float64]:
        """Return by how much this order is the more faithful one: deletion and insertion, mean over shares, (2, gene).

        Positive where deletion lowers the log mean more than the control's, and insertion leaves it higher.
        """
        return np.stack(
            [(control.deletion - self.deletion).mean(axis=0), (self.insertion - control.insertion).mean(axis=0)]
        )


class Painter:
    """Paints nuclei of one block.

    Parameters
    ----------
    block
        What the model says of a block with pixels painted over.
    filled
        What painted pixels show.
    shares
        Of the nuclear area, at which the prediction is noted.
    """

    def __init__(self, block: Repainted, filled: NDArray[np.uint8], *, shares: tuple[float, ...] = SHARES) -> None:
        self._block, self._filled, self._shares = block, filled, shares
        self._labels, self._nuclei = block.scene.labels, block.scene.nuclei
        self._area = block.scene.pixels[: self._nuclei]
        self._owned = (self._labels >= 0) & (self._labels < self._nuclei)
        self._tissue: NDArray[np.bool_] | None = None

    @property
    def untouched(self) -> NDArray[np.float64]:
        """Log mean of the block as it is, (gene,)."""
        return self._block(np.zeros_like(self._owned), self._filled)

    @property
    def bare(self) -> NDArray[np.float64]:
        """Log mean of the block without its nuclei, (gene,)."""
        return self._block(self._owned, self._filled)

    def curve(self, order: NDArray[np.intp], *, gene: int | None = None) -> Curve:
        """Return the curves of an order of the block's nuclei, the first to go first.

        Parameters
        ----------
        order
            (nucleus,) all nuclei of the block, each once.
        gene
            The one whose curve is wanted; None: all.
        """
        first = [self._pixels(self.leading(order, share)) for share in self._shares]
        deletion = [self._block(gone, self._filled) for gone in first]
        insertion = [self._block(self._owned & ~kept, self._filled) for kept in first]
        some = slice(None) if gene is None else slice(gene, gene + 1)
        return Curve(np.stack(deletion)[:, some], np.stack(insertion)[:, some])

    def leading(self, order: NDArray[np.intp], share: float) -> NDArray[np.intp]:
        """Return the first nuclei of an order that hold a share of the nuclear area, as nearly as whole nuclei can."""
        reached = np.cumsum(self._area[order])
        wanted = share * reached[-1]
        count = int(np.searchsorted(reached, wanted)) + 1
        before = reached[count - 2] if count > 1 else 0
        return order[: count - (wanted - before < reached[min(count, len(order)) - 1] - wanted)]

    def regions(
        self, order: NDArray[np.intp], tissue: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return the log mean with random regions painted over that match the first nuclei in area, (share, gene).

        The regions are the outlines of those nuclei at random places of the block's tissue, drawn again where they
        overlap what is painted already; insertion has no such control, since restoring them restores no nucleus.

        Parameters
        ----------
        order
            Of nuclei.
        tissue
            (height, width) bool, where regions may lie.
        rng
            Where chance comes from.
        """
        bounds = self._block.bounds
        found = []
        for share in self._shares:
            chosen = self.leading(order, share)
            shapes = self._shapes(chosen)
            found.append(self._block(scattered(shapes, bounds, tissue, rng), self._filled))
        return np.stack(found)

    def _pixels(self, nuclei: NDArray[np.intp]) -> NDArray[np.bool_]:
        chosen = np.zeros(self._block.scene.features + 1, dtype=bool)
        chosen[nuclei] = True
        return np.asarray(chosen[self._labels])  # ELSEWHERE is the last entry

    def _shapes(self, nuclei: NDArray[np.intp]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Return rows and columns of each nucleus's pixels, from their smallest."""
        rows, columns = np.nonzero(self._owned)
        label = self._labels[rows, columns]
        by_label = np.argsort(label, kind="stable")
        starts = np.searchsorted(label[by_label], np.arange(self._nuclei + 1))
        found = []
        for nucleus in nuclei.tolist():
            own = by_label[starts[nucleus] : starts[nucleus + 1]]
            if len(own):
                found.append((rows[own] - rows[own].min(), columns[own] - columns[own].min()))
        return found


def scattered(
    shapes: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
    bounds: Bounds,
    tissue: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return shapes at random places of the tissue within bounds, apart from each other where there is room.

    Parameters
    ----------
    shapes
        Rows and columns of the pixels of each, from 0.
    bounds
        Where they may lie.
    tissue
        (height, width) bool: the middle of each shape lies on it.
    rng
        Where chance comes from.
    """
    painted = np.zeros_like(tissue)
    places = np.argwhere(tissue[bounds.rows_and_columns]) + np.array([bounds.top, bounds.left])
    if not len(places):
        return painted
    height, width = tissue.shape
    for rows, columns in shapes:
        middle = int(rows.max()) // 2, int(columns.max()) // 2
        for top, left in places[rng.integers(len(places), size=TRIES)] - middle:
            at = np.clip(rows + top, 0, height - 1), np.clip(columns + left, 0, width - 1)
            if not painted[at].any():
                break
        painted[at] = True
    return painted
