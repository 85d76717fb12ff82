"""Places on a slide through an encoder and an ensemble, one block of pixels at a time.

The pixel grid of every block is anchored at the slide's corner, so that a place gets the same window whichever block,
batch or thread it travels in. Blocks are read by threads while the device computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.models.encoders import Encoder, EncoderCard
from stimage_qupath.prediction.careful import CarefulEncoder
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.slide.reader import Slide

BLOCK_UM = 1024.0
"""Side of a block of places: large against the window around each, small against memory (5 MB at 1 um)."""

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Window:
    """One image to read and the places in it.

    Attributes
    ----------
    index
        (place,) which of the asked places lie here.
    centres
        (place, 2) x and y in pixels of the image.
    x, y
        Top-left corner, level-0 px.
    width, height
        Pixels at ``downsample``.
    downsample
        Level-0 px a pixel.
    """

    index: NDArray[np.intp]
    centres: NDArray[np.float64]
    x: float
    y: float
    width: int
    height: int
    downsample: float

    def read(self, slide: Slide) -> NDArray[np.uint8]:
        """Return the pixels, (height, width, 3)."""
        return slide.read_region(self.x, self.y, width=self.width, height=self.height, downsample=self.downsample)


def plan_windows(points_px: NDArray[np.float64], card: EncoderCard, slide: Slide, mpp: float) -> list[Window]:
    """Group places into blocks and frame each block with the margin its windows need.

    Parameters
    ----------
    points_px
        (place, 2) x and y, level-0 px.
    card
        Of the encoder: its pixel size, window and treatment of the slide's edge.
    slide
        Its size bounds the frames of encoders that clip.
    mpp
        um per level-0 pixel.
    """
    if not len(points_px):
        return []
    downsample = card.mpp / mpp
    block = np.floor(points_px / (BLOCK_UM / mpp)).astype(np.int64)
    keys, member = np.unique(block[:, ::-1], axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member.ravel(), minlength=len(keys)))[:-1])
    limit = None if card.pads_edges else (int(slide.width / downsample), int(slide.height / downsample))
    return [_frame(points_px, index, card, downsample, limit) for index in groups]


def _frame(
    points_px: NDArray[np.float64],
    index: NDArray[np.intp],
    card: EncoderCard,
    downsample: float,
    limit: tuple[int, int] | None,
) -> Window:
    """Frame one group; ``limit`` (width, height) of the slide at ``downsample`` clips the frame."""
    grid = points_px[index] / downsample
    margin = card.tile_px // 2 + 1
    low = np.floor(grid.min(axis=0)).astype(np.int64) - margin
    low -= low % card.align_px
    high = np.ceil(grid.max(axis=0)).astype(np.int64) + margin
    if limit is not None:
        low, high = np.clip(low, 0, np.array(limit) - 1), np.clip(high, 1, limit)
    width, height = (high - low).tolist()
    x, y = (low * downsample).tolist()
    return Window(index=index, centres=grid - low, x=x, y=y, width=width, height=height, downsample=downsample)


def encode_points(
    slide: Slide,
    mpp: float,
    points_px: NDArray[np.float64],
    encoder: Encoder,
    *,
    device: torch.device,
    batch_size: int = 64,
    threads: int = 2,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> NDArray[np.float32]:
    """Return the features of windows centred on ``points_px``, (place, feature).

    Parameters
    ----------
    slide, mpp
        Where to read, and its pixel size.
    points_px
        (place, 2) x and y, level-0 px.
    encoder
        What to compute.
    device, batch_size
        For encoders that are networks.
    threads
        Blocks read ahead.
    on_progress
        Called with the stage ``encode`` and the places done.
    cancelled
        Asked between blocks and batches.
    """
    windows = plan_windows(points_px, encoder.card, slide, mpp)
    features = np.empty((len(points_px), encoder.card.width), dtype=np.float32)
    careful, done = CarefulEncoder(encoder), 0
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        images = read_ahead((partial(window.read, slide) for window in windows), pool, depth=threads)
        for window, image in zip(windows, images, strict=True):
            stop_if(cancelled)
            features[window.index] = careful.encode(
                image, window.centres, device=device, batch_size=batch_size, cancelled=cancelled
            )
            done += len(window.index)
            on_progress("encode", done, len(points_px), "")
    return features


def read_ahead(jobs: Iterable[Callable[[], Job]], pool: ThreadPoolExecutor, *, depth: int) -> Iterator[Job]:
    """Run ``jobs`` in ``pool``, at most ``depth`` beyond the one in use, and yield their results in order."""
    pending: deque[Future[Job]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
