"""What any model must beat, each fitted to the training spots alone and named as in the evaluation protocol.

Two of them know nothing of a gene but how it goes with sequencing depth: ``predicted_depth`` reads the depth off the
image, ``observed_depth`` is told it. Whatever they score is not gene signal. ``position`` knows no image either, only
where a spot lies in a block of which other sections were measured: whatever it scores is what neighbours leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.spots.residuals import pearson_residuals
from stimage_qupath.validation.linear import LinearMap, fit_ridge
from stimage_qupath.validation.log_counts import LogCounts
from stimage_qupath.validation.nb_glm import fit_nb_glm, moment_total_count, section_means
from stimage_qupath.validation.registration import LEAST_DICE, register

Float = NDArray[np.float64]

NEIGHBOURS = 10
COMPONENTS = 32
"""Principal components in which ``nearest_feature`` looks for neighbours."""
ORACLES = ("observed_depth",)
"""Baselines that use the held-out spot's own counts; they show what a score is worth and meet no target."""
NAMES = (
    "gene_mean",
    "nearest_feature",
    "position",
    "colour_ridge",
    "ridge",
    "nb_glm",
    "predicted_depth",
    "observed_depth",
    "permuted_features",
)


@dataclass(frozen=True, slots=True)
class Outline:
    """Where the tissue of one section lies.

    Attributes
    ----------
    patient
        Sections of the same patient are taken for serial ones.
    mask
        (row, column) tissue, :data:`~stimage_qupath.validation.registration.MASK_UM` a pixel.
    """

    patient: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spots:
    """Spots as baselines see them.

    Attributes
    ----------
    features
        (spot, feature), standardised by the training spots.
    counts
        (spot, gene).
    totals
        (spot,) total counts over all genes.
    section
        (spot,) index of the section.
    colour
        (spot, feature) of the ``colour`` encoder where the model has another one, else None.
    positions_um
        (spot, 2) x and y in the section, or None.
    outlines
        One for each section, or none.
    """

    features: Float
    counts: Float
    totals: Float
    section: NDArray[np.int64]
    colour: Float | None = None
    positions_um: Float | None = None
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True, slots=True)
class BaselinePrediction:
    """What a baseline says of the held-out spots.

    Attributes
    ----------
    mean
        (spot, gene) mean at reference depth.
    residual
        (spot, gene) Pearson residuals where the baseline predicts those directly, else None.
    """

    mean: Float
    residual: Float | None = None


@dataclass(frozen=True, slots=True)
class FittedBaselines:
    """All baselines, fitted; what a model folder keeps of its training data.

    Attributes
    ----------
    reference_total
        Depth at which means are meant.
    rates
        (gene,) share of each gene in the training counts.
    total_count
        (gene,) dispersion of counts about the share of their section.
    sizes
        (node,) quantiles of training's depths, in reference depths.
    ridge, glm, depth
        From features to Pearson residuals, log means, and the log of the total.
    colour
        As ``ridge``, from the features of the ``colour`` encoder.
    depth_line
        (2, gene) value at the mean log depth, and slope, of log1p normalised counts.
    mean_log_depth
        Of the training spots.
    to_components
        (feature, component) directions in which spots are near each other.
    components, normalised
        (kept spot, component) and (kept spot, gene) log1p normalised counts.
    section, positions_um, outlines
        (kept spot,), (kept spot, 2) and one an outlined section, or None and none.
    log_counts
        The way of STimage, for comparison.
    """

    reference_total: float
    rates: Float
    total_count: Float
    sizes: Float
    ridge: LinearMap
    glm: LinearMap
    depth: LinearMap
    depth_line: Float
    mean_log_depth: float
    to_components: Float
    components: Float
    normalised: Float
    section: NDArray[np.int64]
    log_counts: LogCounts
    colour: LinearMap | None = None
    positions_um: Float | None = None
    outlines: tuple[Outline, ...] = ()

    def predict(self, test: Spots, *, seed: int) -> Mapping[str, BaselinePrediction]:
        """Return the prediction of every baseline that can be made for the spots of one section.

        Parameters
        ----------
        test
            Held-out spots of one section. Their counts and totals enter ``observed_depth`` alone.
        seed
            Of the permutation control.
        """
        gene_mean = np.broadcast_to(self.reference_total * self.rates, (len(test.features), len(self.rates)))
        shuffled = test.features[np.random.default_rng(seed).permutation(len(test.features))]
        near = nearest_mean(self.components, self.normalised, test.features @ self.to_components)
        found: dict[str, BaselinePrediction | None] = {
            "gene_mean": BaselinePrediction(gene_mean),
            "nearest_feature": BaselinePrediction(np.expm1(near)),
            "position": self._by_position(test),
            "colour_ridge": None,
            "ridge": _of_residual(self.ridge(test.features), gene_mean),
            "nb_glm": BaselinePrediction(np.exp(np.clip(self.glm(test.features), -20, 14))),
            "predicted_depth": self._along_depth(self.depth(test.features)[:, 0]),
            "observed_depth": self._along_depth(np.log(test.totals)),
            "permuted_features": _of_residual(self.ridge(shuffled), gene_mean),
        }
        if self.colour is not None and test.colour is not None:
            found["colour_ridge"] = _of_residual(self.colour(test.colour), gene_mean)
        return {name: prediction for name, prediction in found.items() if prediction is not None}

    def reduced(self, train: Spots, *, rank: int, most_spots: int, seed: int) -> FittedBaselines:
        """Return the same with maps of low rank and fewer spots to be near to, small enough to travel with a model.

        Parameters
        ----------
        train
            What it was fitted to.
        rank
            Of each map.
        most_spots
            Spots kept for ``nearest_feature`` and ``position``; if there are more, a random part.
        seed
            Of that part.
        """
        kept = np.arange(len(self.components))
        if len(kept) > most_spots:
            kept = np.sort(np.random.default_rng(seed).choice(kept, most_spots, replace=False))
        has_colour = self.colour is not None and train.colour is not None
        return replace(
            self,
            ridge=self.ridge.reduced(train.features, rank),
            glm=self.glm.reduced(train.features, rank),
            depth=self.depth.reduced(train.features, rank),
            colour=self.colour.reduced(train.colour, rank) if has_colour else None,  # type: ignore[union-attr,arg-type]
            log_counts=self.log_counts.reduced(train.features, rank),
            components=self.components[kept],
            normalised=self.normalised[kept],
            section=self.section[kept],
            positions_um=None if self.positions_um is None else self.positions_um[kept],
        )

    def of_genes(self, genes: NDArray[np.intp]) -> FittedBaselines:
        """Return the baselines of some genes."""
        return replace(
            self,
            rates=self.rates[genes],
            total_count=self.total_count[genes],
            ridge=_columns(self.ridge, genes),
            glm=_columns(self.glm, genes),
            colour=None if self.colour is None else _columns(self.colour, genes),
            depth_line=self.depth_line[:, genes],
            normalised=self.normalised[:, genes],
            log_counts=self.log_counts.of_genes(genes),
        )

    def _along_depth(self, log_depth: Float) -> BaselinePrediction:
        """Read each gene's straight line of log1p normalised counts along log depth off at some depths."""
        log_mean = self.depth_line[0] + (log_depth - self.mean_log_depth)[:, None] * self.depth_line[1]
        return BaselinePrediction(np.maximum(np.expm1(log_mean), 0))

    def _by_position(self, test: Spots) -> BaselinePrediction | None:
        """Return the mean of the nearest spots of the patient's other sections, laid over this one; None without."""
        if self.positions_um is None or test.positions_um is None or not test.outlines:
            return None
        here = test.outlines[0]
        rows: list[NDArray[np.intp]] = []
        distance: list[Float] = []
        for index, there in enumerate(self.outlines):
            if there.patient != here.patient or not (there.mask.any() and here.mask.any()):
                continue
            over = register(here.mask, there.mask)
            if over.dice >= LEAST_DICE:
                own = np.flatnonzero(self.section == index)
                rows.append(own)
                distance.append(_squared_distance(over(test.positions_um), self.positions_um[own]))
        if not rows:
            return None
        known = self.normalised[np.concatenate(rows)]
        return BaselinePrediction(np.expm1(_mean_of_near(np.concatenate(distance, axis=1), known)))


def fit_baselines(train: Spots, *, reference_total: float) -> FittedBaselines:
    """Fit every baseline to training spots.

    Parameters
    ----------
    train
        All training spots.
    reference_total
        Total at which means are meant.
    """
    rates = train.counts.sum(axis=0) / train.totals.sum()
    normalised = np.log1p(train.counts * (reference_total / train.totals)[:, None])
    log_depth = np.log(train.totals)
    centred = log_depth - log_depth.mean()
    slope = centred @ (normalised - normalised.mean(axis=0)) / max(float(centred @ centred), 1e-12)
    residuals = _section_residuals(train)
    _, _, right = np.linalg.svd(train.features - train.features.mean(axis=0), full_matrices=False)
    directions = right[:COMPONENTS].T
    return FittedBaselines(
        reference_total=reference_total,
        rates=rates,
        total_count=moment_total_count(train.counts, section_means(train.counts, train.totals, train.section)),
        sizes=np.quantile(train.totals / reference_total, (np.arange(9) + 0.5) / 9),
        ridge=fit_ridge(train.features, residuals, train.section),
        glm=fit_nb_glm(train.features, train.counts, train.totals, train.section, reference_total=reference_total),
        depth=fit_ridge(train.features, log_depth[:, None], train.section),
        colour=None if train.colour is None else fit_ridge(train.colour, residuals, train.section),
        depth_line=np.stack([normalised.mean(axis=0), slope]),
        mean_log_depth=float(log_depth.mean()),
        to_components=directions,
        components=train.features @ directions,
        normalised=normalised,
        section=train.section,
        positions_um=train.positions_um,
        outlines=train.outlines,
        log_counts=LogCounts.fit(train.features, train.counts, train.section),
    )


def predict_baselines(
    train: Spots, test: Spots, *, reference_total: float, seed: int
) -> Mapping[str, BaselinePrediction]:
    """Return the prediction of every baseline for the test spots; see :func:`fit_baselines`."""
    return fit_baselines(train, reference_total=reference_total).predict(test, seed=seed)


def nearest_mean(known: Float, targets: Float, wanted: Float) -> Float:
    """Return the mean target of the nearest :data:`NEIGHBOURS` known points, (wanted, target)."""
    return _mean_of_near(_squared_distance(wanted, known), targets)


def _squared_distance(wanted: Float, known: Float) -> Float:
    centre = known.mean(axis=0)
    wanted, known = wanted - centre, known - centre
    return np.asarray((wanted**2).sum(axis=1)[:, None] - 2 * wanted @ known.T + (known**2).sum(axis=1))


def _mean_of_near(squared_distance: Float, targets: Float) -> Float:
    k = min(NEIGHBOURS, len(targets))
    nearest = np.argpartition(squared_distance, k - 1, axis=1)[:, :k]
    return np.asarray(targets[nearest].mean(axis=1))


def _section_residuals(train: Spots) -> Float:
    """Return residuals against each section's own rates, so that no whole-section difference is learnt."""
    residuals = np.zeros_like(train.counts)
    for section in np.unique(train.section):
        rows = train.section == section
        rates = train.counts[rows].sum(axis=0) / train.totals[rows].sum()
        residuals[rows] = pearson_residuals(train.counts[rows], train.totals[rows], rates)
    return residuals


def _of_residual(residual: Float, gene_mean: Float) -> BaselinePrediction:
    """Turn a residual r at the null of mean m and variance m + m^2 / 10 into the mean m + r sd, never below 0."""
    spread = np.sqrt(gene_mean + gene_mean**2 / 10)
    return BaselinePrediction(np.maximum(gene_mean + residual * spread, 0), residual)


def _columns(of: LinearMap, genes: NDArray[np.intp]) -> LinearMap:
    return LinearMap(of.centre, of.left, of.right[:, genes], of.mean[genes])
