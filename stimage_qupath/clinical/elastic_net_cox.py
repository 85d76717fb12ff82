"""Cox's model with an elastic net, by proximal Newton steps.

Maximises ``loglik(b) - sum_j penalty_j (a |b_j| + (1 - a) b_j^2 / 2)``. Each step replaces the likelihood by its
quadratic expansion and solves that by coordinate descent (Simon et al. 2011, J. Stat. Softw. 39).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]

NEWTON_STEPS = 100
SWEEPS = 2000
HALVINGS = 30
MOVED = 1e-10
"""Largest move of a coefficient, in SDs of its column, at which the fit is done."""


def fit_elastic_net(
    x: Float, sets: RiskSets, *, penalty: Float, l1_ratio: Float | float, start: Float | None = None
) -> Float:
    """Fit one model; arguments as for :func:`~stimage_qupath.clinical.cox.fit_cox`.

    Parameters
    ----------
    x
        (patient, column).
    sets
        Who is at risk when.
    penalty
        (column,) of each.
    l1_ratio
        ``a``, (column,) or one for all: 0 is a ridge, 1 the lasso.
    start
        (column,) where to begin.

    Returns
    -------
    ndarray
        (column,) coefficients, exactly 0 for columns left out.

    Raises
    ------
    UsageError
        It does not converge.
    """
    coef = np.zeros(x.shape[1]) if start is None else start.copy()
    absolute, squared = penalty * l1_ratio, penalty * (1 - l1_ratio)

    def objective(b: Float) -> float:
        value = float(sets.likelihood((x @ b)[:, None]).value[0])
        return value - float(absolute @ np.abs(b)) - 0.5 * float(squared @ b**2)

    value = objective(coef)
    for _ in range(NEWTON_STEPS):
        eta = x @ coef
        gradient = x.T @ sets.likelihood(eta[:, None]).residuals[:, 0]
        step = _quadratic(sets.hessian(eta, x), gradient, coef, absolute, squared) - coef
        if np.abs(step).max(initial=0.0) <= MOVED:
            return coef
        for _ in range(HALVINGS):
            reached = objective(coef + step)
            if reached >= value - 1e-12 * (1 + abs(value)):
                break
            step = step / 2
        coef, value = coef + step, reached
    msg = "expected an elastic net that converges, found one that does not; take a larger penalty or ridge (--penalty)"
    raise UsageError(msg)


def _quadratic(information: Float, gradient: Float, at: Float, absolute: Float, squared: Float) -> Float:
    """Return the maximum of the quadratic expansion at ``at``, less the penalty, by coordinate descent."""
    coef = at.copy()
    slope = gradient.copy()  # of the expansion, at coef
    curvature = np.maximum(np.diag(information), 1e-12)
    for _ in range(SWEEPS):
        most = 0.0
        for j in range(len(coef)):
            old = coef[j]
            pull = slope[j] + curvature[j] * old
            new = np.sign(pull) * max(abs(pull) - absolute[j], 0.0) / (curvature[j] + squared[j])
            if new != old:
                coef[j] = new
                slope -= information[:, j] * (new - old)
                most = max(most, abs(new - old))
        if most <= MOVED / 10:
            break
    return coef
