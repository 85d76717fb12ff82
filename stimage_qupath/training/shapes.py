"""The parameters of a likelihood beside its location, by maximum posterior, given the location of each spot.

Used as :func:`stimage_qupath.training.fit.fit_total_count` is: once with section rates as a working value, then with
out-of-fold predictions, because fitted means follow their own spots too closely.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models.likelihoods import PARAMETERS, check_likelihood, distribution

PRIORS: dict[str, tuple[float, float]] = {
    "log_total_count": (1.6, 2.0),
    "zero_logit": (-4.0, 1.5),
    "log_sd": (-0.5, 2.0),
}
"""Mean and SD of the normal prior on each: r near 5; 2 % of empty places, 25 % at two SD; SD near 0.6 in logs."""
MAX_ITERATIONS = 80


def fit_shapes(
    name: str, counts: NDArray[np.float32], location: NDArray[np.float32], log_depth: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of each gene, {name: (gene,)}.

    All genes at once by L-BFGS on minus the log posterior, with gradients by autograd.

    Parameters
    ----------
    name
        ``nb``, ``poisson``, ``zinb`` or ``gaussian-log``.
    counts
        (spot, gene).
    location
        (spot, gene) at reference depth, from a model that did not see the spots.
    log_depth
        (spot,) log of total over reference total.
    """
    names = PARAMETERS[check_likelihood(name)]
    if not names:
        return {}
    y, eta, depth = (torch.from_numpy(np.asarray(a)).double() for a in (counts, location, log_depth))
    values = {key: torch.full((y.shape[1],), PRIORS[key][0], dtype=torch.float64, requires_grad=True) for key in names}
    optimiser = torch.optim.LBFGS(
        list(values.values()),
        max_iter=MAX_ITERATIONS,
        history_size=12,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def minus_log_posterior() -> Tensor:
        optimiser.zero_grad()
        loss = -distribution(name, eta, values).at_depth(depth[:, None]).log_prob(y).sum()
        for key, value in values.items():
            centre, sd = PRIORS[key]
            loss = loss + 0.5 * ((value - centre) / sd).square().sum()
        loss.backward()
        return loss

    optimiser.step(minus_log_posterior)
    return {key: np.clip(value.detach().numpy(), *names[key]).astype(np.float32) for key, value in values.items()}
