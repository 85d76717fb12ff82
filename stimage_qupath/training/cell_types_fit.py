"""Softmax heads from labelled places: hard labels of nuclei, or proportions that the nuclei of a spot share.

Each member is a multinomial logistic regression with an L2 penalty on a bootstrap of the labelled units (patients,
images, else blocks of tissue). The penalty is chosen, and the temperature fitted, on units that were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from stimage_qupath.models.cell_type import CellTypeEnsemble, SoftmaxHeads, log_likelihood
from stimage_qupath.models.ensemble import FEATURE_LIMIT
from stimage_qupath.results import CancelCheck, never_cancelled, stop_if

Float = NDArray[np.float64]
Prior = Literal["training", "equal"]

PENALTIES: Final = (1e-3, 1e-2, 1e-1, 1.0)
"""Per labelled place; half the squared weights times this is added to the mean loss."""
FOLDS: Final = 5
MOST_CLASS_WEIGHT: Final = 20.0
"""A class that is rarer than a twentieth of its share would else hang on a handful of nuclei."""
TEMPERATURES: Final = (0.2, 10.0)
SPREAD_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPlaces:
    """Places whose type, or mixture of types, is known.

    Attributes
    ----------
    features
        (place, feature).
    target
        (place, class), rows sum to 1.
    unit
        (place,) what is left out together and resampled together.
    weight
        (place,) how much each counts; the nuclei of a spot share one.
    """

    features: NDArray[np.float32]
    target: Float
    unit: NDArray[np.intp]
    weight: Float

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit, and targets that are no shares."""
        lengths = {len(self.features), len(self.target), len(self.unit), len(self.weight)}
        if len(lengths) != 1 or not np.allclose(self.target.sum(axis=1), 1, atol=1e-6) or (self.target < 0).any():
            msg = f"expected targets that sum to 1 for each of {len(self.features)} places, found others"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.features)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> LabelledPlaces:
        """Return some places."""
        return LabelledPlaces(self.features[index], self.target[index], self.unit[index], self.weight[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How heads are fitted.

    Attributes
    ----------
    members
        Of the ensemble.
    balanced
        Whether rare classes count as much as frequent ones in the loss.
    prior
        Of a balanced fit, what the probabilities assume: ``training``, the shares of the classes among the labels, or
        ``equal`` ones.
    penalties
        To choose from.
    folds
        Of the choice, at most as many as there are units.
    seed
        Of folds and bootstrap.
    """

    members: int = 10
    balanced: bool = True
    prior: Prior = "training"
    penalties: tuple[float, ...] = PENALTIES
    folds: int = FOLDS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse nothing to fit, and folds that leave nothing out."""
        if self.members < 1 or not self.penalties or self.folds < 2:
            msg = f"expected at least one member and penalty and two folds, found {self}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class CellTypeFit:
    """What fitting gives.

    Attributes
    ----------
    ensemble
        The heads.
    penalty
        That was chosen.
    losses
        Mean negative log-likelihood on left-out units for each penalty.
    out_of_fold
        (place, class) probabilities of each place by heads that did not see its unit, at the temperature.
    """

    ensemble: CellTypeEnsemble
    penalty: float
    losses: dict[float, float]
    out_of_fold: Float


def fit_cell_types(
    places: LabelledPlaces,
    classes: Sequence[str],
    settings: FitSettings,
    *,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
    cancelled: CancelCheck = never_cancelled,
) -> CellTypeFit:
    """Fit an ensemble.

    Parameters
    ----------
    places
        Of at least two units.
    classes
        Names of the columns of the targets.
    settings
        How.
    on_fit
        Called with the number of fits done and to do.
    cancelled
        Asked before each fit.

    Raises
    ------
    ValueError
        There are fewer than two units or classes.
    """
    units = np.unique(places.unit)
    if len(units) < 2 or len(classes) < 2:
        msg = f"expected labels of at least two classes in two units, found {len(classes)} in {len(units)}"
        raise ValueError(msg)
    folds = _folds(places.unit, settings)
    total = len(settings.penalties) * len(folds) + (len(folds) + 1) * settings.members
    done = 0

    def fit(part: LabelledPlaces, penalty: float, draws: int) -> SoftmaxHeads:
        nonlocal done
        stop_if(cancelled)
        heads = _heads(part, penalty, settings, draws)
        done += max(draws, 1)
        on_fit(done, total)
        return heads

    losses = {}
    for penalty in settings.penalties:
        held_out = [(fit(places.take(~test), penalty, 0), places.take(test)) for test in folds]
        losses[penalty] = _loss(held_out)
    penalty = min(losses, key=lambda p: losses[p])
    members = [fit(places.take(~test), penalty, settings.members) for test in folds]
    names = tuple(classes)
    logits = np.empty((settings.members, len(places), len(names)))
    for heads, test in zip(members, folds, strict=True):
        logits[:, test] = CellTypeEnsemble(names, heads).logits(places.features[test])
    temperature = fit_temperature(logits, places.target, places.weight)
    heads = replace(fit(places, penalty, settings.members), temperature=temperature)
    out_of_fold = softmax(logits / temperature, axis=-1).mean(axis=0)
    return CellTypeFit(CellTypeEnsemble(names, heads), penalty, losses, out_of_fold)


def fit_temperature(logits: Float, target: Float, weight: Float) -> float:
    """Return the temperature at which the mean over members is most likely (Guo et al. 2017, arXiv 1706.04599).

    Parameters
    ----------
    logits
        (member, place, class) of places that the members did not see.
    target
        (place, class), rows sum to 1.
    weight
        (place,).
    """

    def loss(log_temperature: float) -> float:
        return -float(np.average(log_likelihood(logits / np.exp(log_temperature), target), weights=weight))

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def class_weights(target: Float, weight: Float) -> Float:
    """Return how much more a place of each class counts than one of an average class, (class,); 0 for none."""
    share = np.average(target, axis=0, weights=weight)
    wanted = np.divide(1 / len(share), share, out=np.zeros_like(share), where=share > 0)
    return np.minimum(wanted, MOST_CLASS_WEIGHT)


def _folds(unit: NDArray[np.intp], settings: FitSettings) -> list[NDArray[np.bool_]]:
    """Return which places each fold leaves out: whole units, drawn."""
    units = np.random.default_rng(settings.seed).permutation(np.unique(unit))
    return [np.isin(unit, part) for part in np.array_split(units, min(settings.folds, len(units)))]


def _loss(held_out: Sequence[tuple[SoftmaxHeads, LabelledPlaces]]) -> float:
    """Return the mean negative log-likelihood of places that heads did not see."""
    total = weight = 0.0
    for heads, part in held_out:
        names = tuple(str(i) for i in range(part.target.shape[1]))
        logits = CellTypeEnsemble(names, heads).logits(part.features).astype(np.float64)
        total -= float((log_likelihood(logits, part.target) * part.weight).sum())
        weight += float(part.weight.sum())
    return total / weight


def _heads(places: LabelledPlaces, penalty: float, settings: FitSettings, draws: int) -> SoftmaxHeads:
    """Fit one head on all places (``draws`` 0), or as many members on bootstraps of the units."""
    mean = places.features.mean(axis=0, dtype=np.float64)
    sd = np.maximum(places.features.std(axis=0, dtype=np.float64), SPREAD_FLOOR)
    x = np.clip((places.features - mean) / sd, -FEATURE_LIMIT, FEATURE_LIMIT)
    by_class = class_weights(places.target, places.weight) if settings.balanced else np.ones(places.target.shape[1])
    target = places.target * by_class
    shift = np.zeros(places.target.shape[1])
    if settings.balanced and settings.prior == "training":
        shift = -np.log(np.where(by_class > 0, by_class, 1))
    rows = [places.weight] if draws == 0 else [places.weight * d for d in _draws(places.unit, draws, settings.seed)]
    weights, biases = [], []
    begin = np.zeros((x.shape[1] + 1, target.shape[1]))
    for row in rows:
        begin = _logistic(x, target * row[:, None], penalty, begin)
        weights.append(begin[:-1])
        biases.append(begin[-1] + shift)
    return SoftmaxHeads(
        feature_mean=mean.astype(np.float32),
        feature_sd=sd.astype(np.float32),
        weight=np.stack(weights).astype(np.float32),
        bias=np.stack(biases).astype(np.float32),
    )


def _draws(unit: NDArray[np.intp], members: int, seed: int) -> Float:
    """Return how often each member sees each place, (member, place): units are drawn with replacement."""
    _, code = np.unique(unit, return_inverse=True)
    n = int(code.max()) + 1
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=members)[:, code].astype(np.float64)


def _logistic(x: Float, target: Float, penalty: float, start: Float) -> Float:
    """Return weights and, last, the biases of a multinomial regression on weighted soft targets, (feature + 1, class).

    Minimises ``-sum target log p / sum target + penalty / 2 |weight|^2`` by L-BFGS; biases are not penalised.
    """
    total = target.sum()
    share = target.sum(axis=1, keepdims=True)
    shape = start.shape

    def loss(flat: Float) -> tuple[float, Float]:
        w = flat.reshape(shape)
        log_p = log_softmax(x @ w[:-1] + w[-1], axis=1)
        error = (share * np.exp(log_p) - target) / total
        gradient = np.concatenate([x.T @ error + penalty * w[:-1], error.sum(axis=0, keepdims=True)])
        value = -float((target * log_p).sum()) / total + 0.5 * penalty * float((w[:-1] ** 2).sum())
        return value, gradient.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-8})
    return np.asarray(found.x).reshape(shape)
