"""Predictions against a person's annotations: one class against the rest, in units that are not single nuclei.

The bootstrap draws annotations of the class, and those of the rest, with replacement; a class of fewer than five
annotations is drawn in spatial blocks instead. The permutation test permutes the labels of the pieces that blocks and
classes cut the nuclei into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import cKDTree

from stimage_qupath.spots.splits import BLOCK_UM, MIN_UNITS, spatial_blocks
from stimage_qupath.validation.bootstrap import Interval
from stimage_qupath.validation.rank_test import pair_wins, permutation_p, resample_units, weighted_auroc

Float = NDArray[np.float64]
Codes = NDArray[np.intp]
Bool = NDArray[np.bool_]
UnitKind = Literal["annotations", "spatial blocks"]

MIN_BLOCKS: Final = 20
"""Fewer occupied blocks are too few to permute."""
DENSITY_UM: Final = 50.0
"""Radius of the nuclear density that any gene must beat: a few cells around each nucleus."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Nuclei that a person has labelled.

    Attributes
    ----------
    classes
        Names of the classes.
    code
        (nucleus,) class of each nucleus, -1 for none.
    annotation
        (nucleus,) number of the annotation it lies in; -1 where its label is its own, or there is none.
    positions_um
        (nucleus, 2).
    """

    classes: tuple[str, ...]
    code: Codes
    annotation: Codes
    positions_um: Float

    def __post_init__(self) -> None:
        """Refuse arrays of different length."""
        n = len(self.code)
        if len(self.annotation) != n or self.positions_um.shape != (n, 2):
            found = f"{len(self.annotation)} annotations and {self.positions_um.shape}"
            msg = f"expected {n} annotations and positions of labelled nuclei, found {found}"
            raise ValueError(msg)

    def take(self, chosen: Bool) -> Labelled:
        """Return some of the nuclei."""
        return Labelled(self.classes, self.code[chosen], self.annotation[chosen], self.positions_um[chosen])

    def keep(self, chosen: Bool) -> Labelled:
        """Return the same nuclei, of which those that are not ``chosen`` have lost their label."""
        return replace(self, code=np.where(chosen, self.code, -1), annotation=np.where(chosen, self.annotation, -1))

    def annotations_of(self, code: int) -> int:
        """Return how many annotations hold nuclei of a class."""
        inside = self.annotation[(self.code == code) & (self.annotation >= 0)]
        return len(np.unique(inside))

    def unit_kind(self, code: int) -> UnitKind:
        """Return what the bootstrap draws for a class."""
        return "annotations" if self.annotations_of(code) >= MIN_UNITS else "spatial blocks"


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one score tells a class from the rest.

    Attributes
    ----------
    auroc
        With its interval.
    has_interval
        Whether both sides have the five units that an interval needs; else it spans nothing.
    u
        Mann and Whitney's U of the class.
    p
        By permutation of blocks; None where it is not tested.
    """

    auroc: Interval
    has_interval: bool
    u: float
    p: float | None

    def to_dict(self) -> dict[str, object]:
        """Return the AUROC as JSON has it."""
        return interval_record(self.auroc, self.has_interval)


def interval_record(figure: Interval, has_interval: bool) -> dict[str, object]:
    """Return a figure as JSON has it; ``ci`` is null without an interval."""
    return {"value": figure.value, "ci": list(figure.ci) if has_interval else None}


@dataclass(frozen=True, slots=True)
class Separator:
    """Labels prepared for any number of scores.

    Parameters
    ----------
    labelled
        All nuclei that are scored; of code -1 are those outside, which count as rest.
    block_um
        Side of a spatial block.
    replicates, permutations, seed
        Of the bootstrap and of the test.
    """

    labelled: Labelled
    block_um: float = BLOCK_UM
    replicates: int = 1000
    permutations: int = 999
    seed: int = 0
    blocks: int = field(init=False)
    _unit: Codes = field(init=False)
    _of_unit: Codes = field(init=False)
    _piece: Codes = field(init=False)
    _of_piece: Codes = field(init=False)

    def __post_init__(self) -> None:
        """Give each nucleus its unit of the bootstrap and its piece of the permutation."""
        labelled = self.labelled
        block = spatial_blocks(labelled.positions_um, self.block_um)
        self._set("blocks", len(np.unique(block)))
        piece = (labelled.code + 1) * (int(block.max(initial=0)) + 1) + block
        whole = [c for c in range(len(labelled.classes)) if labelled.unit_kind(c) == "annotations"]
        by_annotation = np.isin(labelled.code, whole) & (labelled.annotation >= 0)
        unit = np.where(by_annotation, labelled.annotation + int(piece.max(initial=0)) + 1, piece)
        for name, keys in (("unit", unit), ("piece", piece)):
            _, first, number = np.unique(keys, return_index=True, return_inverse=True)
            self._set(f"_{name}", number.ravel())
            self._set(f"_of_{name}", labelled.code[first])

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def units_of(self, code: int) -> tuple[int, int]:
        """Return the number of units of a class and of its rest."""
        inside = int((self._of_unit == code).sum())
        return inside, len(self._of_unit) - inside

    def separations(self, values: Float) -> dict[str, Separation]:
        """Return how well ``values``, (nucleus,) and finite, tell each class from the rest.

        A class without nuclei, or without a rest, is left out.
        """
        unit_wins, unit_sizes = self._wins(values, self._unit)
        piece_wins, piece_sizes = self._wins(values, self._piece)
        found = {}
        for code, name in enumerate(self.labelled.classes):
            inside, outside = self.units_of(code)
            if not inside or not outside:
                continue
            member = self._of_unit == code
            drawn = [
                resample_units(side, replicates=self.replicates, seed=self.seed + shift)
                for shift, side in enumerate((member, ~member))
            ]
            interval = Interval.of(weighted_auroc(unit_wins, unit_sizes, drawn[0], drawn[1]))
            pairs = unit_sizes[member].sum() * unit_sizes[~member].sum()
            p = None
            if self.blocks >= MIN_BLOCKS:
                positive = self._of_piece == code
                p = permutation_p(piece_wins, piece_sizes, positive, permutations=self.permutations, seed=self.seed + 2)
            enough = min(inside, outside) >= MIN_UNITS
            found[name] = Separation(interval, enough, interval.value * pairs, p)
        return found

    def _wins(self, values: Float, unit: Codes) -> tuple[Float, Float]:
        sizes = np.bincount(unit).astype(np.float64)
        return pair_wins(values, unit, len(sizes)), sizes


def quartiles(values: Float) -> dict[str, float | int]:
    """Return number, mean, median and quartiles of values; without a value, the number alone."""
    if not len(values):
        return {"n": 0}
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "median": float(middle),
        "q1": float(low),
        "q3": float(high),
    }


def false_discovery(p: Mapping[tuple[str, str], float | None]) -> dict[tuple[str, str], float | None]:
    """Return Benjamini and Hochberg's adjusted p of those that were tested, None for the others (JRSS B 57, 1995)."""
    tested: dict[tuple[str, str], float] = {key: value for key, value in p.items() if value is not None}
    adjusted = stats.false_discovery_control(list(tested.values())) if tested else []
    return dict.fromkeys(p, None) | dict(zip(tested, map(float, adjusted), strict=True))


def nuclear_density(positions_um: Float, *, radius_um: float = DENSITY_UM) -> Float:
    """Return the other nuclei within ``radius_um`` of each, (nucleus,); lower at the edge of what was analysed."""
    tree = cKDTree(positions_um)
    return np.asarray(tree.query_ball_point(positions_um, radius_um, return_length=True), dtype=np.float64) - 1


def codes_of(names: Sequence[str | None], classes: Sequence[str]) -> Codes:
    """Return the place of each name in ``classes``, -1 for None and for names that are not in it."""
    place = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if name is None else place.get(name, -1) for name in names], dtype=np.intp)
