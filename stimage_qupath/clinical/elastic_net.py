"""A response predicted by an elastic net whose mix and penalty are chosen on inner folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import Bool, Design, Standardiser
from stimage_qupath.clinical.drug_metrics import loss
from stimage_qupath.clinical.elastic_net_path import LinearPath, LogisticPath, largest_penalty
from stimage_qupath.clinical.folds import Fold
from stimage_qupath.clinical.linear_model import LinearModel, Part
from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]

RIDGE: Final = 0.0
MIXES: Final = (RIDGE, 0.1, 0.5)
"""Shares of the absolute penalty; the first is kept unless another is clearly better on the inner folds."""
HALF_WAY: Final = 1.0
"""Standard errors by which another mix must be better to share the prediction with the first, half and half."""
WHOLE_WAY: Final = 2.0
"""Standard errors by which it must be better than that mean to take the first's place."""
PENALTIES: Final = 12
PATIENCE: Final = 3
"""Ever weaker penalties without a lower loss on the inner folds after which the rest of a path is not tried."""
WEAKEST: Final = 0.02, 0.001
"""Last over first penalty of a path, with fewer patients than columns and with more (glmnet has 0.01 and 0.0001)."""
RIDGE_AMOUNTS: Final = 100.0, 0.01
"""First and last penalty of the ridge times patients over the sum of variances."""
MOST_GENES: Final = 2000
"""Genes kept by the filter, those of highest absolute correlation with the response on the training patients (sure
independence screening: Fan and Lv 2008, J. R. Stat. Soc. B 70:849)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticNet:
    """Fits elastic nets.

    Attributes
    ----------
    kind
        Of the response.
    mixes
        To choose from; the first is preferred. ``(0.0,)`` is a plain ridge.
    most_genes
        Genes that pass the filter.
    """

    kind: Kind
    mixes: tuple[float, ...] = MIXES
    most_genes: int = MOST_GENES

    name: ClassVar[str] = "elastic-net"

    def fit(self, design: Design, y: Float, folds: Sequence[Fold]) -> LinearModel:
        """Choose mix and penalty, and fit all patients with them.

        The first mix is left in two steps, since the best of several noisy losses is too good by chance: for the mean
        of its fit and another mix's where that mix has a lower loss on the inner folds by :data:`HALF_WAY` standard
        errors of the difference (the rule of one standard error: Breiman et al. 1984, Classification and Regression
        Trees, 3.4.3), and for the other mix alone where its loss is below that of the mean by :data:`WHOLE_WAY`.

        Parameters
        ----------
        design
            Of the training patients.
        y
            (patient,) their response.
        folds
            Inner folds of them.
        """
        whole = _Prepared.of(design, y, self.most_genes)
        inner = [_Inner.of(design, y, fold, self.most_genes) for fold in folds]
        tried = [self._try(mix, whole.penalties(mix, self.kind), y, inner) for mix in self.mixes]
        parts = self._choose(y, tried)
        intercept, coefficients = 0.0, np.zeros(len(design.names))
        for part in parts:
            a, b = self._fit(whole, part)
            intercept += part.weight * a
            coefficients[whole.columns] += part.weight * b
        return LinearModel(self.kind, whole.standardiser, intercept, coefficients, parts)

    def _try(self, mix: float, penalties: Float, y: Float, inner: Sequence[_Inner]) -> _Tried:
        """Go down a path on all inner folds at once, until the loss has long stopped to fall."""
        paths = [self._path(one.part, mix) for one in inner]
        best, best_loss, since = None, np.inf, 0
        for penalty in penalties:
            predictor = np.empty(len(y))
            for path, one in zip(paths, inner, strict=True):
                intercept, coefficients = path.at(float(penalty))
                predictor[one.rows] = intercept + one.test @ coefficients
            mean = float(self._loss(y, predictor).mean())
            since += 1
            if mean < best_loss:
                best, best_loss, since = _Tried(mix, float(penalty), predictor), mean, 0
            if since >= PATIENCE:
                break
        if best is None:
            msg = f"expected finite losses on the inner folds, found none of mix {mix}"
            raise FloatingPointError(msg)
        return best

    def _choose(self, y: Float, tried: Sequence[_Tried]) -> tuple[Part, ...]:
        first, *others = tried
        if not others:
            return (first.part(1.0),)
        other = min(others, key=lambda one: float(self._loss(y, one.predictor).mean()))
        loss, mean = self._loss(y, other.predictor), self._loss(y, (first.predictor + other.predictor) / 2)
        if not _lower(loss, self._loss(y, first.predictor), HALF_WAY):
            return (first.part(1.0),)
        return (other.part(1.0),) if _lower(loss, mean, WHOLE_WAY) else (first.part(0.5), other.part(0.5))

    def _fit(self, whole: _Prepared, part: Part) -> tuple[float, Float]:
        """Fit all training patients, from the strongest penalty down to the chosen one."""
        path, fit = self._path(whole, part.mix), (0.0, np.zeros(0))
        for penalty in whole.penalties(part.mix, self.kind):
            fit = path.at(float(penalty))
            if penalty <= part.penalty:
                break
        return fit

    def _loss(self, y: Float, predictor: Float) -> Float:
        return loss(self.kind, y, predictor[:, None])[:, 0]

    def _path(self, part: _Prepared, mix: float) -> LinearPath | LogisticPath:
        kind = LogisticPath if self.kind == "binary" else LinearPath
        return kind(part.x, part.y, mix=mix)


@dataclass(frozen=True, slots=True)
class _Tried:
    """The best penalty of a mix, and the linear predictor of each patient by the fit without its inner fold."""

    mix: float
    penalty: float
    predictor: Float

    def part(self, weight: float) -> Part:
        return Part(self.mix, self.penalty, weight)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Training patients, standardised; columns that are constant or did not pass the filter are gone."""

    x: Float
    y: Float
    columns: NDArray[np.intp]
    standardiser: Standardiser
    is_covariate: Bool

    @classmethod
    def of(cls, design: Design, y: Float, most_genes: int) -> _Prepared:
        standardiser = Standardiser.fit(design)
        keep = standardiser.varies & (design.is_covariate | screened(design, y, most_genes))
        columns = np.flatnonzero(keep)
        part = Standardiser(standardiser.centre[columns], standardiser.scale[columns])
        return cls(part(design.values[:, columns]), y, columns, standardiser, design.is_covariate[columns])

    def standard(self, values: Float) -> Float:
        """Return the kept columns of other patients, standardised by these."""
        part = Standardiser(self.standardiser.centre[self.columns], self.standardiser.scale[self.columns])
        return part(values[:, self.columns])

    def penalties(self, mix: float, kind: Kind) -> Float:
        """Return the penalties of a path, (penalty,), strongest first; they follow from the training patients."""
        n, residual = len(self.y), self.y - self.y.mean()
        penalised = self.x[:, ~self.is_covariate] if not self.is_covariate.all() else self.x
        if mix == RIDGE:
            curvature = 0.25 if kind == "binary" else 1.0  # of the loss, at most
            return np.asarray(np.geomspace(*RIDGE_AMOUNTS, PENALTIES) * curvature * max(penalised.shape[1], 1) / n)
        if kind == "continuous":
            residual = residual / max(float(residual.std()), 1e-300)
        if penalised.shape[1] < self.x.shape[1]:  # from where the first gene enters, the covariates being in
            known = np.column_stack([np.ones(n), self.x[:, self.is_covariate]])
            residual = residual - known @ np.linalg.lstsq(known, residual, rcond=1e-6)[0]
        first = max(largest_penalty(penalised, residual, mix=mix), 1e-6)
        return np.asarray(first * np.geomspace(1, WEAKEST[n > self.x.shape[1]], PENALTIES))


@dataclass(frozen=True, slots=True)
class _Inner:
    """An inner fold: its training patients, and the rows and columns of those it tests."""

    part: _Prepared
    rows: NDArray[np.intp]
    test: Float

    @classmethod
    def of(cls, design: Design, y: Float, fold: Fold, most_genes: int) -> _Inner:
        part = _Prepared.of(design.take(fold.train), y[fold.train], most_genes)
        return cls(part, fold.test, part.standard(design.values[fold.test]))


def screened(design: Design, y: Float, most: int) -> Bool:
    """Return which columns are genes among the ``most`` of highest absolute correlation with ``y``, (column,)."""
    genes = np.flatnonzero(~design.is_covariate)
    keep = np.zeros(len(design.names), dtype=bool)
    if len(genes) > most:
        centred = design.values[:, genes] - design.values[:, genes].mean(axis=0)
        length = np.sqrt((centred**2).sum(axis=0))
        link = np.abs((y - y.mean()) @ centred) / np.maximum(length, 1e-12)
        genes = genes[np.argsort(-link, kind="stable")[:most]]
    keep[genes] = True
    return keep


def _lower(loss: Float, other: Float, standard_errors: float) -> bool:
    """Whether a loss is below another, (patient,) each, by so many standard errors of the difference."""
    gain = other - loss
    return bool(gain.mean() > standard_errors * gain.std(ddof=1) / np.sqrt(len(gain)))
