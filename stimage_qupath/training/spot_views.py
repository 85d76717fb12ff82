"""Images around measured spots, read when they are needed, and other views of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models.encoders import EncoderCard
from stimage_qupath.prediction.stream import Window, plan_windows, read_ahead
from stimage_qupath.slide.reader import Slide
from stimage_qupath.training.nuclei_augmentation import AugmentationSettings, Stain

STAIN_JITTER: Final = AugmentationSettings(stain=0.1, colour=0.02, light=0.05)
"""Of fine-tuning; milder than for nuclei, because colour itself says something of expression."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image to read and the spots in it.

    Attributes
    ----------
    slide
        Open slide.
    window
        What to read.
    spots
        (spot,) rows of the table of all spots.
    """

    slide: Slide
    window: Window
    spots: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class View:
    """A frame as read, or turned and stained otherwise.

    Attributes
    ----------
    image
        (3, height, width) float32 levels 0-255.
    centres
        (spot, 2) float32 x and y in pixels of the image.
    spots
        (spot,) rows of the table of all spots.
    """

    image: Tensor
    centres: Tensor
    spots: NDArray[np.intp]


def plan_frames(
    slide: Slide, mpp: float, points_px: NDArray[np.float64], card: EncoderCard, *, first_row: int, whole: bool
) -> list[Frame]:
    """Return the images of one section.

    Parameters
    ----------
    slide, mpp
        Where to read, and its pixel size.
    points_px
        (spot, 2) x and y, level-0 px.
    card
        Of the encoder.
    first_row
        Row of the first spot in the table of all spots.
    whole
        Blocks of many spots, as an encoder of whole images has them; else one window a spot.
    """
    windows = plan_windows(points_px, card, slide, mpp) if whole else _tiles(points_px, card, card.mpp / mpp)
    return [Frame(slide, window, first_row + window.index) for window in windows]


def _tiles(points_px: NDArray[np.float64], card: EncoderCard, downsample: float) -> list[Window]:
    side = card.tile_px
    corners = np.floor(points_px / downsample - side / 2 + 0.5) * downsample
    middle = np.array([[side / 2, side / 2]])
    return [
        Window(np.array([i]), middle, float(x), float(y), side, side, downsample) for i, (x, y) in enumerate(corners)
    ]


def read_views(
    frames: Sequence[Frame],
    *,
    order: NDArray[np.intp],
    threads: int,
    seed: tuple[int, ...] | None,
    stain: AugmentationSettings = STAIN_JITTER,
) -> Iterator[View]:
    """Yield the views of frames in some order, read ahead by threads.

    Parameters
    ----------
    frames, order
        What to read, and in which order.
    threads
        That read and stain.
    seed
        Of the views: each frame is turned, mirrored and stained at random; None shows frames as they are.
    stain
        How far stains differ.
    """
    jobs = (
        partial(_view, frames[i], None if seed is None else np.random.default_rng((*seed, int(i))), stain)
        for i in order
    )
    with ThreadPoolExecutor(threads, thread_name_prefix="view") as pool:
        yield from read_ahead(jobs, pool, depth=4 * threads)


def _view(frame: Frame, rng: np.random.Generator | None, stain: AugmentationSettings) -> View:
    image, centres = frame.window.read(frame.slide).astype(np.float32), frame.window.centres
    if rng is not None:
        image, centres = turned(image, centres, quarters=int(rng.integers(4)), mirrored=bool(rng.integers(2)))
        image = Stain.draw(rng, stain).apply(image)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return View(pixels, torch.from_numpy(centres.astype(np.float32)), frame.spots)


def turned(
    image: NDArray[np.float32], centres: NDArray[np.float64], *, quarters: int, mirrored: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return an image turned left by quarters and then mirrored, and where its places are now."""
    for _ in range(quarters):
        centres = np.stack([centres[:, 1], image.shape[1] - centres[:, 0]], axis=1)
        image = np.rot90(image)
    if mirrored:
        centres = np.stack([image.shape[1] - centres[:, 0], centres[:, 1]], axis=1)
        image = image[:, ::-1]
    return image, centres
