"""Images of one laboratory in the stains of another: Macenko, Reinhard, Vahadane.

What a slide looks like (its *appearance*) is estimated once, from tissue pixels of the whole slide, and carried to the
target by one fixed function of a pixel's colour: a tile never has a say in how it is shown. White stays white.

- ``macenko``: the two stain vectors by torchstain (extra ``stain``); concentrations by least squares, scaled so that
  their 99th percentiles agree (M. Macenko et al., ISBI 2009, doi 10.1109/ISBI.2009.5193250).
- ``vahadane``: the vectors by scikit-learn's dictionary learning with non-negative parts; concentrations by the
  non-negative lasso (A. Vahadane et al., IEEE TMI 35:1962-1971, 2016, doi 10.1109/TMI.2016.2529665).
- ``reinhard``: mean and deviation in CIELAB by scikit-image (E. Reinhard et al., IEEE CG&A 21:34-41, 2001,
  doi 10.1109/38.946629); glass is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

from stimage_qupath.errors import MissingPartError
from stimage_qupath.slide.stain import RUIFROK_JOHNSTON

Method: TypeAlias = Literal["macenko", "reinhard", "vahadane"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
INSTALL: Final = 'pip install "stimage-qupath[stain]"'

LEAST_PIXELS: Final = 1000
MOST_PIXELS: Final = 50_000
_PERCENTILE: Final = 99.0  # of the concentrations; torchstain's, as in Macenko et al.
_SPARSITY: Final = 0.1  # of the dictionary, Vahadane et al. (lambda)
_LASSO: Final = 0.01  # of the concentrations; StainTools' value: enough to keep noise of one stain out of the other
_GLASS: Final = 0.15  # optical density (natural log) up to which Reinhard fades out; Macenko's threshold of tissue
_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Appearance:
    """How a slide, or a set of training slides, is stained.

    Attributes
    ----------
    method
        What it was estimated by.
    stains
        (2, 3) optical densities (natural log, unit length) of hematoxylin and eosin, or empty for ``reinhard``.
    strength
        (2,) 99th percentile of each concentration, or empty.
    lab_mean, lab_sd
        (3,) of CIELAB over tissue, or empty.
    """

    method: Method
    stains: tuple[tuple[float, ...], ...] = ()
    strength: tuple[float, ...] = ()
    lab_mean: tuple[float, ...] = ()
    lab_sd: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse parts that are missing, of the wrong size or not finite."""
        if self.method not in METHODS:
            msg = f"expected a method out of {', '.join(METHODS)}, found '{self.method}'"
            raise ValueError(msg)
        shapes = {"stains": (2, 3), "strength": (2,), "lab_mean": (3,), "lab_sd": (3,)}
        used = ("lab_mean", "lab_sd") if self.method == "reinhard" else ("stains", "strength")
        for name in used:
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shapes[name] or not np.isfinite(value).all():
                msg = f"expected {name} of shape {shapes[name]} with finite numbers, found {value.tolist()}"
                raise ValueError(msg)
        if min(self.strength or self.lab_sd) <= 0:
            msg = f"expected strengths above 0, found {self.strength or self.lab_sd}"
            raise ValueError(msg)

    @classmethod
    def of_pixels(cls, rgb: NDArray[np.uint8], method: Method, *, seed: int = 0) -> Self:
        """Estimate from tissue pixels of a whole slide.

        Parameters
        ----------
        rgb
            (pixel, 3) uint8, tissue only; at least 1000. Of more than 50,000 a random choice is used.
        method
            How.
        seed
            Of that choice and of dictionary learning.

        Raises
        ------
        ValueError
            There are too few pixels, or they hold one colour only.
        MissingPartError
            ``macenko`` without torchstain.
        """
        if rgb.ndim != 2 or rgb.shape[1] != 3 or rgb.dtype != np.uint8 or len(rgb) < LEAST_PIXELS:
            msg = f"expected at least {LEAST_PIXELS} tissue pixels of uint8 RGB, found {rgb.shape} {rgb.dtype}"
            raise ValueError(msg)
        if len(rgb) > MOST_PIXELS:
            rgb = rgb[np.random.default_rng(seed).choice(len(rgb), MOST_PIXELS, replace=False)]
        if method == "reinhard":
            lab = rgb2lab(rgb[None])[0]
            return cls(
                method, lab_mean=_numbers(lab.mean(axis=0)), lab_sd=_numbers(np.maximum(lab.std(axis=0), _FLOOR))
            )
        stains = _macenko_stains(rgb) if method == "macenko" else _vahadane_stains(rgb, seed)
        found = _concentrations(_density(rgb), stains, method)
        strength = np.percentile(found, _PERCENTILE, axis=0)
        return cls(method, stains=tuple(map(_numbers, stains)), strength=_numbers(strength))

    def to_dict(self) -> dict[str, Any]:
        """Return what the model card stores."""
        if self.method == "reinhard":
            return {"method": self.method, "lab_mean": list(self.lab_mean), "lab_sd": list(self.lab_sd)}
        return {"method": self.method, "stains": [list(row) for row in self.stains], "strength": list(self.strength)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; other keys are left alone.

        Raises
        ------
        ValueError
            Something is missing or damaged.
        """
        return cls(
            values.get("method", ""),
            stains=tuple(map(tuple, values.get("stains", ()))),
            strength=tuple(values.get("strength", ())),
            lab_mean=tuple(values.get("lab_mean", ())),
            lab_sd=tuple(values.get("lab_sd", ())),
        )


@dataclass(frozen=True, slots=True)
class Normaliser:
    """From one appearance to another, pixel by pixel.

    Attributes
    ----------
    source, target
        By the same method.
    """

    source: Appearance
    target: Appearance

    def __post_init__(self) -> None:
        """Refuse two methods."""
        if self.source.method != self.target.method:
            msg = f"expected one method, found {self.source.method} and {self.target.method}"
            raise ValueError(msg)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image in the stains of the target, (height, width, 3) uint8."""
        return self._reinhard(image) if self.source.method == "reinhard" else self._stains(image)

    def _stains(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = _concentrations(_density(image.reshape(-1, 3)), np.array(self.source.stains), self.source.method)
        scale = np.array(self.target.strength) / np.array(self.source.strength)
        mixed = found @ (scale[:, None] * np.array(self.target.stains)).astype(np.float32)
        return _to_bytes(255 * np.exp(-mixed)).reshape(image.shape)

    def _reinhard(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        lab = rgb2lab(image)
        standard = (lab - self.source.lab_mean) / self.source.lab_sd
        moved = lab2rgb(standard * self.target.lab_sd + self.target.lab_mean)
        # Glass has no stain to normalise, and the white that stands for "beyond the slide" must stay white.
        share = np.minimum(_density(image).max(axis=-1, keepdims=True) / _GLASS, 1.0)
        return _to_bytes(share * 255 * moved + (1 - share) * image)


def _density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density in natural logarithm, as torchstain has it: ``-ln((I + 1) / 256)``, 0 for white."""
    table = -np.log((np.arange(256) + 1) / 256)
    return np.asarray(table.astype(np.float32)[rgb])


def _macenko_stains(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return hematoxylin and eosin, (2, 3), by torchstain."""
    try:
        from torchstain.numpy.normalizers import NumpyMacenkoNormalizer
    except ImportError as error:
        msg = f"expected the package torchstain for Macenko's method, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    dense = (_density(rgb) >= _GLASS).all(axis=1)
    if dense.sum() < LEAST_PIXELS:
        msg = f"expected at least {LEAST_PIXELS} stained pixels for Macenko's method, found {dense.sum()}"
        raise ValueError(msg)
    fitted = NumpyMacenkoNormalizer()
    fitted.fit(rgb[dense][None], Io=256, alpha=1, beta=_GLASS)
    return _unit_rows(fitted.HERef.T)


def _vahadane_stains(rgb: NDArray[np.uint8], seed: int) -> NDArray[np.float64]:
    """Return hematoxylin and eosin, (2, 3), as the dictionary of two colours that the densities are sparse in."""
    from sklearn.decomposition import MiniBatchDictionaryLearning  # a second of every start, which few runs need

    start = _unit_rows(RUIFROK_JOHNSTON[:2])
    learner = MiniBatchDictionaryLearning(
        n_components=2,
        alpha=_SPARSITY,
        fit_algorithm="cd",
        dict_init=start,
        positive_code=True,
        positive_dict=True,
        batch_size=1024,
        max_iter=20,
        random_state=seed,
    )
    found = _unit_rows(learner.fit(_density(rgb).astype(np.float64)).components_)
    # Hematoxylin takes away more red, measured against green, than eosin does.
    return found[np.argsort(-found[:, 0] / np.maximum(found[:, 1], _FLOOR))]


def _concentrations(density: NDArray[np.float32], stains: NDArray[np.float64], method: Method) -> NDArray[np.float32]:
    """Return (pixel, 2) concentrations: least squares, or the non-negative lasso for Vahadane.

    The lasso of two stains is solved exactly: either both are present, or one alone, or none.
    """
    gram, pull = stains @ stains.T, density @ stains.T.astype(np.float32)
    if method == "macenko":
        return np.asarray(pull @ np.linalg.inv(gram).T.astype(np.float32))
    pull = pull - np.float32(_LASSO)
    both = pull @ np.linalg.inv(gram).T.astype(np.float32)
    alone = np.maximum(pull / np.diag(gram).astype(np.float32), 0)
    # Where the exact solution is negative in one stain, the other stands alone.
    first_only = (both[:, 1] < 0) & (both[:, 0] >= both[:, 1])
    second_only = (both[:, 0] < 0) & ~first_only
    both[first_only] = alone[first_only] * (1, 0)
    both[second_only] = alone[second_only] * (0, 1)
    return np.maximum(both, 0)


def _unit_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    if (length <= _FLOOR).any():
        msg = "expected two stains in the tissue, found one colour only"
        raise ValueError(msg)
    return np.asarray(matrix / length)


def _to_bytes(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def _numbers(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Six decimals are finer than a grey level can tell."""
    return tuple(round(float(value), 6) for value in values)
