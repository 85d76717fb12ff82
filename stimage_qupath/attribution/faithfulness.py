"""Whether painting over the nuclei that an attribution puts first changes the prediction more than painting others.

One block of the slide at a time. Controls are (a) the same order with nuclei exchanged for others of like area,
haematoxylin and distance to the block's centre, and (b) regions of the same area at random places. "Faithful to the
model" is all that this can show; it is no evidence of biology.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.attribution.deletion import SHARES, Curve, Painter
from stimage_qupath.attribution.fills import GLASS_BELOW_OD
from stimage_qupath.attribution.matching import exchanged, matched_groups, standardised_difference
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.reader import Block
from stimage_qupath.attribution.repainted import Bounds, Repainted
from stimage_qupath.attribution.transplant import transplanted
from stimage_qupath.slide.stain import hematoxylin_eosin, optical_density

CONTROLS: Final = 2
"""Exchanged orders, and sets of random regions, a block and gene; blocks are many, so that few are enough."""
COVARIATES: Final = ("area", "hematoxylin", "distance to the centre")
BALANCE_AT: Final = 0.2
"""Share of the nuclear area at which the record says how alike nuclei and controls are."""


@dataclass(frozen=True, slots=True)
class BlockFaithfulness:
    """What one block says of an attribution.

    Attributes
    ----------
    nuclei
        How many were ordered.
    untouched, bare
        (gene,) log mean as it is, and without nuclei.
    ordered, matched
        (deletion and insertion, share, gene): by attribution, and the mean of its controls.
    regions
        (share, gene): with random regions painted over, mean of the controls.
    balance
        (2, covariate, gene): how far the nuclei that come first are from all, and from their controls, in SDs.
    """

    nuclei: int
    untouched: NDArray[np.float64]
    bare: NDArray[np.float64]
    ordered: NDArray[np.float64]
    matched: NDArray[np.float64]
    regions: NDArray[np.float64]
    balance: NDArray[np.float64]

    @property
    def lead(self) -> NDArray[np.float64]:
        """By how much the order beats matched nuclei, (deletion, insertion and their mean; gene): log of the count."""
        deletion = (self.matched[0] - self.ordered[0]).mean(axis=0)
        insertion = (self.ordered[1] - self.matched[1]).mean(axis=0)
        return np.stack([deletion, insertion, (deletion + insertion) / 2])

    @property
    def lead_over_regions(self) -> NDArray[np.float64]:
        """By how much deletion beats random regions, (gene,)."""
        return np.asarray((self.regions - self.ordered[0]).mean(axis=0))


class TestedBlock:
    """A block on which attributions are tested.

    Parameters
    ----------
    block
        As an explanation reads it.
    bounds
        Of the block within its scene.
    question
        Encoder and outputs.
    shares
        Of the nuclear area, at which the prediction is noted.

    Attributes
    ----------
    nuclei
        (nucleus,) which of the run's nuclei are in the block.
    covariates
        (nucleus, 3): what controls are matched in.
    """

    __test__ = False  # not a test, whatever its name says to pytest

    def __init__(self, block: Block, bounds: Bounds, question: Question, *, shares: tuple[float, ...] = SHARES) -> None:
        scene = block.scene
        self.nuclei = block.nuclei
        self.repainted = Repainted(scene, bounds, question)
        self.filled = transplanted(scene.image, block.nuclei_mask, scene.mpp)
        self.painter = Painter(self.repainted, self.filled, shares=shares)
        self._tissue = optical_density(scene.image).mean(axis=-1) >= GLASS_BELOW_OD
        middle = np.array([bounds.left + bounds.right, bounds.top + bounds.bottom]) / 2
        distance = np.linalg.norm(block.middles[: scene.nuclei] - middle, axis=1)
        numbers = np.arange(scene.nuclei)
        stain = ndimage.mean(hematoxylin_eosin(scene.image)[0], scene.labels, numbers) if scene.nuclei else numbers
        self.covariates = np.stack([scene.pixels[: scene.nuclei], np.nan_to_num(stain), distance], axis=1).astype(float)
        self._group = matched_groups(self.covariates)

    def faithfulness(self, values: NDArray[np.floating], *, seed: int, controls: int = CONTROLS) -> BlockFaithfulness:
        """Return what the block says of an attribution.

        Parameters
        ----------
        values
            (nucleus, gene) attributions of the block's nuclei; those without one go last.
        seed
            Of controls.
        controls
            How many of either kind.
        """
        rng = np.random.default_rng([seed, *self.nuclei[:1].tolist()])
        orders = [np.argsort(-np.nan_to_num(column, nan=-np.inf), kind="stable") for column in values.T]
        ordered = [self.painter.curve(order, gene=gene) for gene, order in enumerate(orders)]
        exchanges = [[exchanged(order, self._group, rng) for _ in range(controls)] for order in orders]
        matched = [
            _mean([self.painter.curve(other, gene=gene) for other in others]) for gene, others in enumerate(exchanges)
        ]
        regions = [
            np.mean([self.painter.regions(order, self._tissue, rng)[:, gene] for _ in range(controls)], axis=0)
            for gene, order in enumerate(orders)
        ]
        return BlockFaithfulness(
            nuclei=len(self.nuclei),
            untouched=self.painter.untouched,
            bare=self.painter.bare,
            ordered=_stacked(ordered),
            matched=_stacked(matched),
            regions=np.stack(regions, axis=-1),
            balance=self._balance(orders, [others[0] for others in exchanges]),
        )

    def _balance(self, orders: list[NDArray[np.intp]], controls: list[NDArray[np.intp]]) -> NDArray[np.float64]:
        everyone = np.arange(len(self.nuclei))
        found = []
        for order, control in zip(orders, controls, strict=True):
            first = self.painter.leading(order, BALANCE_AT)
            others = self.painter.leading(control, BALANCE_AT)
            pair = [standardised_difference(self.covariates, first, those) for those in (everyone, others)]
            found.append(np.stack(pair))
        return np.stack(found, axis=-1)


def _mean(curves: list[Curve]) -> Curve:
    return Curve(np.mean([c.deletion for c in curves], axis=0), np.mean([c.insertion for c in curves], axis=0))


def _stacked(curves: list[Curve]) -> NDArray[np.float64]:
    """Return (deletion and insertion, share, gene) of one curve a gene."""
    return np.concatenate([np.stack([c.deletion, c.insertion]) for c in curves], axis=-1)
