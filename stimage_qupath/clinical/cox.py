"""Cox's proportional hazards model with a ridge, fitted by Newton's method.

Maximises ``loglik(b) - sum_j penalty_j b_j^2 / 2`` (Verweij and van Houwelingen 1994, Stat. Med. 13). A column with
penalty 0 is not shrunk. A whole path of penalties is fitted together: all share the Hessian at the start, which changes
little under a ridge, and whichever does not converge so is finished by Newton's method, so that a path gives what
single fits give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]

NEWTON_STEPS = 60
SHARED_STEPS = 12
REFRESHED = 3
"""Times the curvature of a model of a path is computed anew before Newton's method takes over."""
EIGENVALUES = 24
"""Of the Hessian, kept for the steps of a path."""
SUBSPACE_STEPS = 3
HALVINGS = 30
DECREMENT = 1e-15
"""Squared Newton step in the metric of the Hessian at which a single fit is done; coefficients are then exact to 1e-7
of their standard errors."""
DIVERGED = 200.0
"""Range of log hazard ratios beyond which a fit goes to infinity."""
LONGEST_STEP = 50.0
"""Change of that range in one step."""
PATH_DECREMENT = 1e-12
JITTER = 1e-9
"""Added to the diagonal of the Hessian, relative to its largest entry, so that columns alike can be solved for."""


@dataclass(frozen=True, slots=True)
class CoxFit:
    """Coefficients and what was reached.

    Attributes
    ----------
    coef
        (column,) log hazard ratio of one unit of each column.
    loglik
        Log partial likelihood, without the penalty.
    information
        (column, column) minus its second derivative.
    """

    coef: Float
    loglik: float
    information: Float


def fit_cox(x: Float, sets: RiskSets, *, penalty: Float | float = 0.0, start: Float | None = None) -> CoxFit:
    """Fit one model.

    Parameters
    ----------
    x
        (patient, column) finite values.
    sets
        Who is at risk when.
    penalty
        Of each column, or one for all; 0 or more.
    start
        (column,) where to begin; None begins at 0.

    Raises
    ------
    UsageError
        The likelihood has no maximum: a column separates those with the event, and is not penalised.
    """
    shrink = np.broadcast_to(np.asarray(penalty, dtype=np.float64), x.shape[1:])
    coef = np.zeros(x.shape[1]) if start is None else start.copy()
    found = sets.likelihood((x @ coef)[:, None])
    value = float(found.value[0]) - 0.5 * float(shrink @ coef**2)
    for _ in range(NEWTON_STEPS):
        eta = x @ coef
        if not np.ptp(eta) < DIVERGED:
            break
        gradient = x.T @ found.residuals[:, 0] - shrink * coef
        information = sets.hessian(eta, x)
        step = _solve(information + np.diag(shrink), gradient)
        if step @ gradient <= DECREMENT:
            return CoxFit(coef, float(found.value[0]), information)
        step *= min(1.0, LONGEST_STEP / max(float(np.ptp(x @ step)), 1e-300))
        for _ in range(HALVINGS):
            trial = coef + step
            found = sets.likelihood((x @ trial)[:, None])
            reached = float(found.value[0]) - 0.5 * float(shrink @ trial**2)
            if reached >= value - 1e-10 * (1 + abs(value)):
                break
            step = step / 2
        coef, value = trial, reached
    msg = (
        "expected a Cox model with finite coefficients, found none: a column separates patients with the event from "
        "the rest; leave it out or penalise it"
    )
    raise UsageError(msg)


def fit_path(x: Float, sets: RiskSets, *, ridges: Float, fixed: int, fixed_penalty: float, start: Float) -> Float:
    """Fit the same columns under several ridges.

    Parameters
    ----------
    x
        (patient, column).
    sets
        Who is at risk when.
    ridges
        (model,) penalty of every column after the first ``fixed``.
    fixed, fixed_penalty
        Number of leading columns with a penalty of their own, and that penalty, above 0.
    start
        (column,) where all begin, for example at the covariates' own coefficients.

    Returns
    -------
    ndarray
        (column, model) coefficients.
    """
    path = _Path(x, sets, ridges, fixed, fixed_penalty)
    coef, done = path.steps(np.repeat(start[:, None], len(ridges), axis=1))
    for model in np.flatnonzero(~done).tolist():
        one = _Path(x, sets, ridges[[model]], fixed, fixed_penalty)
        for _ in range(REFRESHED):
            coef[:, [model]], arrived = one.steps(coef[:, [model]])
            if arrived.all():
                break
        else:
            coef[:, model] = fit_cox(x, sets, penalty=one.shrink[:, 0], start=coef[:, model]).coef
    return coef


@dataclass(frozen=True, slots=True)
class _Path:
    """Models of the same columns that differ in their ridge; the arguments of :func:`fit_path`."""

    x: Float
    sets: RiskSets
    ridges: Float
    fixed: int
    fixed_penalty: float

    @property
    def shrink(self) -> Float:
        """Penalty of each column in each model, (column, model)."""
        penalty = np.repeat(self.ridges[None], self.x.shape[1], axis=0)
        penalty[: self.fixed] = self.fixed_penalty
        return penalty

    def steps(self, coef: Float) -> tuple[Float, NDArray[np.bool_]]:
        """Take steps with the curvature where the first model is, and return which models have arrived."""
        shrink = self.shrink
        newton = _SharedCurvature.of(self, self.x @ coef[:, 0])
        value, gradient = self._at(coef, shrink)
        damping = np.ones(coef.shape[1])
        for _ in range(SHARED_STEPS):
            step = newton.solve(gradient) * damping
            done = np.asarray((step * gradient).sum(axis=0) <= PATH_DECREMENT)
            if done.all():
                break
            trial = coef + step
            reached, slope = self._at(trial, shrink)
            better = reached >= value - 1e-10 * (1 + np.abs(value))
            coef, value = np.where(better, trial, coef), np.where(better, reached, value)
            gradient = np.where(better, slope, gradient)
            damping = np.where(better, damping, damping / 2)
        return coef, done

    def _at(self, coef: Float, shrink: Float) -> tuple[Float, Float]:
        """Return penalised log partial likelihoods, (model,), and their gradients, (column, model)."""
        found = self.sets.likelihood(self.x @ coef)
        return found.value - 0.5 * (shrink * coef**2).sum(axis=0), self.x.T @ found.residuals - shrink * coef


@dataclass(frozen=True, slots=True)
class _SharedCurvature:
    """The Hessian at the start plus any of the ridges, ready to be solved for.

    Of the ridged block ``G`` the largest eigenvalues are kept (all of a small block), and one value stands for the
    rest, so that ``(G + ridge)^-1 = V diag(1 / (e + ridge) - 1 / (rest + ridge)) V' + 1 / (rest + ridge)``; the fixed
    columns are eliminated exactly. What is approximate here costs steps, not accuracy.

    Attributes
    ----------
    vectors
        (ridged column, eigenvalue) ``V``.
    inner
        (eigenvalue, model) the bracket above.
    outer
        (model,) ``1 / (rest + ridge)``.
    cross
        (ridged column, fixed column) Hessian between the two.
    solved_cross
        (model, ridged column, fixed column) ``(G + ridge)^-1`` times that.
    schur
        (model, fixed column, fixed column) inverse of what is left for the fixed columns.
    """

    vectors: Float
    inner: Float
    outer: Float
    cross: Float
    solved_cross: Float
    schur: Float

    @classmethod
    def of(cls, path: _Path, eta: Float) -> _SharedCurvature:
        x, ridges, fixed = path.x, path.ridges, path.fixed
        weight, mean = path.sets.curvature(eta, x)
        weighted = x * weight[:, None]
        covariates = weighted[:, :fixed].T @ x - mean[:, :fixed].T @ mean
        values, vectors, rest = _largest(weighted[:, fixed:], x[:, fixed:], mean[:, fixed:])
        outer = 1 / (rest + ridges)
        inner = 1 / (values[:, None] + ridges) - outer
        cross = covariates[:, fixed:].T
        along = vectors.T @ cross
        solved = np.stack([vectors @ (inner[:, [m]] * along) + outer[m] * cross for m in range(len(ridges))])
        left = covariates[:, :fixed] + path.fixed_penalty * np.eye(fixed) - cross.T @ solved
        return cls(vectors, inner, outer, cross, solved, np.linalg.inv(left))

    def solve(self, gradient: Float) -> Float:
        """Return the step for a gradient, (column, model) each."""
        fixed = self.cross.shape[1]
        ridged = gradient[fixed:]
        free = self.vectors @ (self.inner * (self.vectors.T @ ridged)) + self.outer * ridged
        if not fixed:
            return free
        left = (gradient[:fixed] - self.cross.T @ free).T[:, :, None]
        first = self.schur @ left
        return np.concatenate([first[:, :, 0].T, free - (self.solved_cross @ first)[:, :, 0].T])


def _largest(weighted: Float, x: Float, mean: Float) -> tuple[Float, Float, float]:
    """Return the largest eigenvalues of ``weighted.T @ x - mean.T @ mean``, their vectors, and a value for the rest."""
    columns = x.shape[1]
    if columns <= 2 * EIGENVALUES:
        values, vectors = np.linalg.eigh(weighted.T @ x - mean.T @ mean)
        return np.maximum(values, 0.0), vectors, 0.0
    # subspace iteration (Halko, Martinsson and Tropp 2011, SIAM Rev. 53)
    basis = np.random.default_rng(0).standard_normal((columns, EIGENVALUES))
    for _ in range(SUBSPACE_STEPS):
        basis = np.linalg.qr(basis)[0]
        image = weighted.T @ (x @ basis) - mean.T @ (mean @ basis)
        product = basis.T @ image
        basis, last = image, basis
    values, turn = np.linalg.eigh((product + product.T) / 2)
    trace = float((weighted * x).sum() - (mean**2).sum())
    rest = max(trace - float(values.sum()), 0.0) / (columns - EIGENVALUES)
    return np.maximum(values, 0.0), last @ turn, max(rest, float(values[0]) / 2)


def _solve(matrix: Float, right: Float) -> Float:
    scale = float(np.abs(np.diag(matrix)).max())
    return np.asarray(np.linalg.solve(matrix + (JITTER * scale + 1e-300) * np.eye(len(matrix)), right))
