"""Predictions for nuclei: a window on each, or windows on a grid between which nuclei interpolate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.prediction.careful import CarefulEncoder
from stimage_qupath.prediction.signatures import SignatureScorer
from stimage_qupath.prediction.stream import Window, plan_windows, read_ahead
from stimage_qupath.results import CancelCheck, Cells, Prediction, Timer, stop_if
from stimage_qupath.signatures.scores import MemberScores
from stimage_qupath.slide.reader import Slide

DEFAULT_STRIDE_UM = 50.0
"""Half a spot of the first ST arrays: the window hardly changes over less."""


class Chunk(Protocol):
    """Some nuclei of one region."""

    @property
    def cells(self) -> Cells:
        """The nuclei."""
        ...


ChunkT = TypeVar("ChunkT", bound=Chunk)
Floating = TypeVar("Floating", np.float32, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPredictor:
    """How nuclei are turned into predictions.

    Attributes
    ----------
    slide, mpp
        Where to read, and its pixel size.
    encoder, ensemble
        The model.
    device, batch_size
        Where networks run, and how many tiles at a time.
    stride_um
        Spacing of the grid, or None for a window on each nucleus.
    interval_genes
        Columns of the genes that get percentiles, or None.
    """

    slide: Slide
    mpp: float
    encoder: Encoder
    ensemble: Ensemble
    device: torch.device
    batch_size: int
    stride_um: float | None = None
    interval_genes: NDArray[np.intp] | None = None

    def predict(
        self, chunks: Iterable[ChunkT], *, cancelled: CancelCheck, timed: Timer
    ) -> Iterator[tuple[ChunkT, Prediction]]:
        """Yield each chunk with its prediction, in order; pixels of the next chunk are read meanwhile.

        Parameters
        ----------
        chunks
            Nuclei, block by block.
        cancelled
            Asked before each chunk.
        timed
            ``timed(stage)`` is a context manager that books its time under ``stage``.
        """
        for loaded, _, prediction in self._each(chunks, cancelled, timed):
            yield loaded.chunk, prediction

    def predict_scored(
        self,
        chunks: Iterable[ChunkT],
        scorer: SignatureScorer,
        *,
        cancelled: CancelCheck,
        timed: Timer,
    ) -> Iterator[tuple[ChunkT, Prediction, MemberScores]]:
        """Yield each chunk with its prediction and its signature scores; arguments as for :meth:`predict`."""
        for loaded, features, prediction in self._each(chunks, cancelled, timed):
            with timed("signatures"):
                scores = scorer(features)
                if loaded.mix is not None:
                    mixed = loaded.mix.values
                    scores = MemberScores(mixed(scores.members), mixed(scores.aleatoric))
            yield loaded.chunk, prediction, scores

    def _each(
        self, chunks: Iterable[ChunkT], cancelled: CancelCheck, timed: Timer
    ) -> Iterator[tuple[_Loaded[ChunkT], NDArray[np.float32], Prediction]]:
        """Yield each chunk with the features of its points and the prediction of its nuclei."""
        careful = CarefulEncoder(self.encoder)
        with ThreadPoolExecutor(1, thread_name_prefix="pixels") as pool:
            jobs = (partial(self._load, chunk, timed) for chunk in chunks)
            for loaded in read_ahead(jobs, pool, depth=1):
                stop_if(cancelled)
                with timed("encode"):
                    features = self._encode(careful, loaded, cancelled)
                with timed("heads"):
                    prediction = self.ensemble.predict(features, device=self.device, interval_genes=self.interval_genes)
                    prediction = prediction if loaded.mix is None else loaded.mix(prediction)
                yield loaded, features, prediction

    def _load(self, chunk: ChunkT, timed: Timer) -> _Loaded[ChunkT]:
        """Plan the windows of a chunk and read their pixels."""
        with timed("crop"):
            return self._cropped(chunk)

    def _cropped(self, chunk: ChunkT) -> _Loaded[ChunkT]:
        points, mix = chunk.cells.centroids_px, None
        if self.stride_um is not None:
            points, mix = interpolation(points, self.stride_um / self.mpp)
        windows = plan_windows(points, self.encoder.card, self.slide, self.mpp)
        return _Loaded(chunk, len(points), mix, windows, [window.read(self.slide) for window in windows])

    def _encode(self, encoder: CarefulEncoder, loaded: _Loaded[ChunkT], cancelled: CancelCheck) -> NDArray[np.float32]:
        features = np.empty((loaded.points, self.encoder.card.width), dtype=np.float32)
        for window, image in zip(loaded.windows, loaded.images, strict=True):
            features[window.index] = encoder.encode(
                image, window.centres, device=self.device, batch_size=self.batch_size, cancelled=cancelled
            )
        return features


@dataclass(frozen=True, slots=True)
class _Loaded(Generic[ChunkT]):
    """A chunk whose pixels are in memory."""

    chunk: ChunkT
    points: int
    mix: Mix | None
    windows: list[Window]
    images: list[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Mix:
    """Bilinear mix that carries values from the nodes of a grid to points.

    Attributes
    ----------
    position
        (place, 4) index of the nodes around each point.
    weight
        (place, 4) float32 share of each; they add up to 1.
    """

    position: NDArray[np.intp]
    weight: NDArray[np.float32]

    def values(self, values: NDArray[Floating]) -> NDArray[Floating]:
        """Return values of the points; ``values`` are those of the nodes, (node, ...)."""
        by_place = self.weight.reshape(*self.weight.shape, *[1] * (values.ndim - 1))
        return np.asarray((values[self.position] * by_place).sum(axis=1))

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return the prediction of the points."""
        mixed = self.values
        return Prediction(
            mean=mixed(prediction.mean),
            aleatoric=mixed(prediction.aleatoric),
            epistemic=mixed(prediction.epistemic),
            ood_score=mixed(prediction.ood_score),
            p05=None if prediction.p05 is None else mixed(prediction.p05),
            p95=None if prediction.p95 is None else mixed(prediction.p95),
            high=None if prediction.high is None else mixed(prediction.high),
        )


def interpolation(points_px: NDArray[np.float64], stride_px: float) -> tuple[NDArray[np.float64], Mix]:
    """Return the grid nodes around some points, and the bilinear mix that carries predictions from nodes to points.

    The grid is anchored at the slide's corner, so that a point has the same four nodes in whatever company.

    Parameters
    ----------
    points_px
        (place, 2) x and y, level-0 px.
    stride_px
        Spacing of the nodes, level-0 px.
    """
    if not len(points_px):
        return points_px, Mix(np.empty((0, 4), dtype=np.intp), np.empty((0, 4), dtype=np.float32))
    grid = points_px / stride_px
    cell = np.floor(grid).astype(np.int64)
    fraction = grid - cell
    corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    wanted = (cell[:, None, :] + corners).reshape(-1, 2)
    nodes, position = np.unique(wanted, axis=0, return_inverse=True)
    share = np.where(corners[None] == 1, fraction[:, None, :], 1 - fraction[:, None, :])
    return nodes * stride_px, Mix(position.reshape(-1, 4), share.prod(axis=2).astype(np.float32))
