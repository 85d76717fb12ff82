"""The elastic net from strong to weak penalties, for a continuous and for a binary response.

With standardised columns ``x`` and coefficients ``b`` a fit minimises

    loss + penalty (mix |b|_1 + (1 - mix) |b|_2^2 / 2)

where the loss is ``sum (y - a - x b)^2 / 2n`` with a response of variance 1 (so that a fit does not depend on its
unit), or the mean negative log-likelihood of a logistic regression; the intercept ``a`` is free (Zou and Hastie 2005,
J. R. Stat. Soc. B 67:301; Friedman, Hastie and Tibshirani 2010, J. Stat. Softw. 33(1), whose Newton steps the logistic
fits take). ``mix`` 1 is the lasso; 0 is the ridge, which is solved in closed form, among the patients where there are
more columns than patients. Each fit starts from the one before.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import expit, logit
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import enet_path

Float = NDArray[np.float64]
Fit = tuple[float, Float]
"""Intercept and coefficients, (column,)."""

TOLERANCE: Final = 1e-3
"""Duality gap of a fit over the response's sum of squares."""
NEWTON_STEPS: Final = 25
NEWTON_TOLERANCE: Final = 1e-3
"""Change of the linear predictor, logits, at which Newton's steps end; they converge quadratically."""
LEAST_WEIGHT: Final = 1e-5
"""Of a patient whose fitted probability is nearly 0 or 1, as in glmnet."""


class LinearPath:
    """Fits of a continuous response.

    Parameters
    ----------
    x
        (patient, column) standardised.
    y
        (patient,).
    mix
        Share of the absolute penalty, 0 to 1.
    tolerance
        Of the duality gap.
    """

    def __init__(self, x: Float, y: Float, *, mix: float, tolerance: float = TOLERANCE) -> None:
        self._centre, self._mean, self._spread = x.mean(axis=0), float(y.mean()), float(y.std()) or 1.0
        self._x, self._y = np.asfortranarray(x - self._centre), (y - self._mean) / self._spread
        self._mix, self._tolerance = mix, tolerance
        self._coefficients = np.zeros(x.shape[1])
        if mix == 0:
            self._values, self._vectors, self._projected = _decomposed(self._x, self._y)
        else:
            self._gram = self._x.T @ self._x if len(x) > x.shape[1] / 4 else None

    def at(self, penalty: float) -> Fit:
        """Return the fit at a penalty, best asked for from strong to weak."""
        if self._mix == 0:
            shrunk = self._vectors @ (self._projected / (self._values + len(self._x) * penalty))
            self._coefficients = self._x.T @ shrunk if len(shrunk) == len(self._x) else shrunk
        else:
            self._coefficients = _descend(
                self._x, self._y, self._mix, penalty, self._coefficients, self._tolerance, self._gram
            )
        found = self._spread * self._coefficients
        return self._mean - float(self._centre @ found), found


class LogisticPath:
    """Fits of a binary response (0 and 1, both present); parameters as of :class:`LinearPath`."""

    def __init__(self, x: Float, y: Float, *, mix: float, tolerance: float = TOLERANCE) -> None:
        self._x, self._y, self._mix, self._tolerance = x, y, mix, tolerance
        self._intercept, self._coefficients = float(logit(y.mean())), np.zeros(x.shape[1])
        self._kernel = x @ x.T if mix == 0 and len(x) <= x.shape[1] else None

    def at(self, penalty: float) -> Fit:
        """Return the fit at a penalty: weighted least squares on the working response until nothing moves."""
        predictor = self._intercept + self._x @ self._coefficients
        for _ in range(NEWTON_STEPS):
            probability = expit(predictor)
            weight = np.maximum(probability * (1 - probability), LEAST_WEIGHT)
            working = predictor + (self._y - probability) / weight
            if self._kernel is not None:
                self._intercept, self._coefficients = self._dual(self._kernel, weight, working, penalty)
            else:
                self._intercept, self._coefficients = self._weighted(weight, working, penalty)
            before, predictor = predictor, self._intercept + self._x @ self._coefficients
            if np.abs(predictor - before).max() < NEWTON_TOLERANCE:
                break
        return self._intercept, self._coefficients

    def _dual(self, kernel: Float, weight: Float, working: Float, penalty: float) -> Fit:
        """Solve the ridge among patients: ``b = x' d`` with ``(x x' + n penalty / w) d = z - a`` and ``sum d = 0``."""
        system = kernel + np.diag(len(weight) * penalty / weight)
        factor = linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        both = linalg.cho_solve(factor, np.column_stack([working, np.ones(len(weight))]), check_finite=False)
        intercept = float(both[:, 0].sum() / both[:, 1].sum())
        return intercept, np.asarray(self._x.T @ (both[:, 0] - intercept * both[:, 1]))

    def _weighted(self, weight: Float, working: Float, penalty: float) -> Fit:
        """Solve weighted least squares with its penalty among columns."""
        total = weight.sum()
        centre, mean = weight @ self._x / total, float(weight @ working / total)
        root = np.sqrt(weight)
        # The weights are left as they are: their mean enters the loss, so that the penalty keeps its meaning.
        x, y = np.asfortranarray((self._x - centre) * root[:, None]), root * (working - mean)
        if self._mix == 0:
            system = x.T @ x + np.diag(np.full(x.shape[1], len(x) * penalty))
            found = linalg.solve(system, x.T @ y, assume_a="pos")
        else:
            gram = x.T @ x if len(x) > x.shape[1] else None
            found = _descend(x, y, self._mix, penalty, self._coefficients, self._tolerance, gram)
        return mean - float(centre @ found), found


def largest_penalty(x: Float, residual: Float, *, mix: float) -> float:
    """Return the penalty from which on every coefficient is 0.

    Parameters
    ----------
    x
        (patient, column) standardised.
    residual
        (patient,) response less its mean; a continuous one over its standard deviation.
    mix
        Share of the absolute penalty, above 0.
    """
    return float(np.abs(x.T @ residual).max(initial=0.0)) / len(x) / mix


def _descend(
    x: Float, y: Float, mix: float, penalty: float, start: Float, tolerance: float, gram: Float | None
) -> Float:
    """Return the coefficients of centred least squares, (column,), by coordinate descent."""
    # Arguments are ours, and to have each call check them anew costs more than a small fit itself.
    with warnings.catch_warnings(), config_context(skip_parameter_validation=True, assume_finite=True):
        # At the weak end of a path the gap can stay above the tolerance; the inner folds judge that fit as any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = enet_path(
            x,
            y,
            l1_ratio=mix,
            alphas=[penalty],
            precompute=False if gram is None else gram,
            Xy=None if gram is None else x.T @ y,
            coef_init=start.copy(),  # it is written over
            tol=tolerance,
            check_input=False,
        )[1]
    return np.ascontiguousarray(found[:, 0])


def _decomposed(x: Float, y: Float) -> tuple[Float, Float, Float]:
    """Return eigenvalues and vectors of the smaller of ``x x'`` and ``x' x``, and the response in their terms."""
    among_patients = len(x) <= x.shape[1]
    values, vectors = linalg.eigh(x @ x.T if among_patients else x.T @ x)
    return np.maximum(values, 0), vectors, vectors.T @ (y if among_patients else x.T @ y)
