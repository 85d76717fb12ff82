"""Features of many places in two dimensions: what the model takes for alike lies side by side.

Principal components (Pearson 1901, doi 10.1080/14786440109462720) keep distances as far as a plane can. UMAP (McInnes,
Healy and Melville 2018, https://arxiv.org/abs/1802.03426) keeps neighbours; sizes of groups and gaps between them mean
nothing there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import MissingPartError, UsageError

PCA: Final = "pca"
UMAP: Final = "umap"
COMPONENTS: Final = 50
"""Of the features that UMAP sees: more are noise, and slow."""
NEIGHBOURS: Final = 15
MIN_DISTANCE: Final = 0.1
INSTALL: Final = 'pip install "stimage-qupath[latent]"'


def principal_components(features: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """Return standardised features along their first principal components, (place, ``count``).

    Each component points to where its largest loading is positive, so that equal features give equal pictures.

    Parameters
    ----------
    features
        (place, feature); features that do not vary count for nothing.
    count
        Components; those that there are not, of few places or features, are zero.
    """
    values = np.asarray(features, dtype=np.float64)
    spread = values.std(axis=0)
    standardised = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    _, _, loadings = np.linalg.svd(standardised, full_matrices=False)
    loadings = loadings[:count]
    largest = np.abs(loadings).argmax(axis=1)
    loadings *= np.sign(loadings[np.arange(len(loadings)), largest])[:, None]
    found = np.zeros((len(values), count))
    found[:, : len(loadings)] = standardised @ loadings.T
    return found


def umap(features: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """Return places in a plane by UMAP of their first principal components, (place, 2).

    Parameters
    ----------
    features
        (place, feature).
    seed
        Of UMAP's random numbers; equal seeds give equal pictures.

    Raises
    ------
    MissingPartError
        umap-learn is not installed.
    UsageError
        There are no more places than UMAP wants neighbours of each.
    """
    try:
        from umap import UMAP as Umap
    except ImportError as error:
        msg = f"expected the package umap-learn for UMAP, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    if len(features) <= NEIGHBOURS:
        msg = f"expected more than {NEIGHBOURS} places for UMAP, found {len(features)}; take the principal components"
        raise UsageError(msg)
    known = principal_components(features, min(COMPONENTS, *features.shape))
    found = Umap(n_neighbors=NEIGHBOURS, min_dist=MIN_DISTANCE, random_state=seed, n_jobs=1).fit_transform(known)
    return np.asarray(found, dtype=np.float64)
