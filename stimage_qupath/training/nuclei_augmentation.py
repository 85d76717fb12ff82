"""Other views of one stained image: turned, scaled, stained, blurred and compressed otherwise.

Scanners and laboratories differ in stain and sharpness far more than nuclei differ in shape, and annotated images are
few. Stain varies in optical density (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299; Tellez et al. 2018,
doi 10.1109/TMI.2018.2820199): the amounts of the two stains, their colours, and the light.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from stimage_qupath.training.nuclei_targets import IGNORED

_HED: Final = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""Colours of haematoxylin, eosin and DAB, optical density in red, green and blue; Ruifrok & Johnston."""
_TO_HED: Final = np.linalg.inv(_HED)


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """How far views differ from the image.

    Attributes
    ----------
    scale
        Factor of the pixel size, up or down, at most.
    stretch
        Factor between the two directions at most.
    stain
        SD of the log amount of each stain.
    colour
        SD of the mixing of red, green and blue in optical density, relative to their size.
    light
        SD of the log of the contrast, and of the background in optical density over ten.
    blur_px
        Sigma at most, px.
    noise
        SD at most, share of white.
    jpeg
        Share of views that are compressed.
    """

    scale: float = 1.4
    stretch: float = 1.15
    stain: float = 0.35
    colour: float = 0.1
    light: float = 0.2
    blur_px: float = 1.2
    noise: float = 0.03
    jpeg: float = 0.3

    def __post_init__(self) -> None:
        """Refuse negative amounts and factors below 1."""
        for f in fields(self):
            value, least = getattr(self, f.name), 1.0 if f.name in {"scale", "stretch"} else 0.0
            if not least <= value < np.inf:
                msg = f"expected {f.name} of at least {least:g}, found {value}"
                raise ValueError(msg)


NO_AUGMENTATION: Final = AugmentationSettings(
    scale=1, stretch=1, stain=0, colour=0, light=0, blur_px=0, noise=0, jpeg=0
)


@dataclass(frozen=True, slots=True)
class Stain:
    """One change of stain, the same for every pixel of an image.

    Attributes
    ----------
    mix
        (3, 3) by which optical densities (red, green, blue) are multiplied.
    offset
        (3,) optical density of the background.
    """

    mix: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    offset: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    @classmethod
    def draw(cls, rng: np.random.Generator, settings: AugmentationSettings) -> Stain:
        """Draw one at random."""
        amounts = np.exp(rng.normal(0, settings.stain, 3))
        colours = np.eye(3) + rng.normal(0, settings.colour, (3, 3))
        contrast = np.exp(rng.normal(0, settings.light))
        return cls(
            mix=contrast * _TO_HED @ np.diag(amounts) @ _HED @ colours,
            offset=rng.normal(0, settings.light / 10, 3),
        )

    def apply(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (..., 3) grey levels of 0-255 after the change."""
        density = -np.log((rgb + 1) / 256).reshape(-1, 3)
        changed = np.exp(-(density @ self.mix.astype(np.float32) + self.offset.astype(np.float32)))
        return np.asarray(np.clip(256 * changed - 1, 0, 255).reshape(rgb.shape), dtype=np.float32)


def view(
    rgb: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    centre: tuple[float, float],
    size: int,
    margin: int,
    rng: np.random.Generator,
    settings: AugmentationSettings,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cut a square out of an image, turned, mirrored and scaled at random.

    Parameters
    ----------
    rgb, labels
        Image (row, col, 3) and labels (row, col).
    centre
        Row and column about which to cut, px.
    size
        Side of the result, px.
    margin
        Further pixels on each side, of the labels only.
    rng, settings
        What is drawn.

    Returns
    -------
    tuple of numpy.ndarray
        (size, size, 3) float32, mirrored beyond the image, and (size + 2 margin, size + 2 margin) int32, unknown there.
    """
    log_scale = np.log(settings.scale)
    zoom = np.exp(rng.uniform(-log_scale, log_scale) + np.array([1, -1]) * rng.uniform(0, np.log(settings.stretch)) / 2)
    angle = rng.uniform(0, 2 * np.pi) if settings.scale > 1 else rng.integers(4) * np.pi / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(zoom * [1, rng.choice([-1, 1])])
    image = _sampled(rgb, matrix, centre, size, labels=False)
    return image, _sampled(labels[..., None], matrix, centre, size + 2 * margin, labels=True)[..., 0].astype(np.int32)


def _sampled(
    values: NDArray[np.uint8] | NDArray[np.int32],
    matrix: NDArray[np.float64],
    centre: tuple[float, float],
    size: int,
    *,
    labels: bool,
) -> NDArray[np.float32]:
    """Return ``values`` on a square of points: bilinear and mirrored, or nearest and unknown outside."""
    steps = np.arange(size) - (size - 1) / 2
    places = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1) @ matrix.T + np.asarray(centre)
    height, width = values.shape[:2]
    if labels:
        rows, cols = np.rint(places).astype(np.intp).transpose(2, 0, 1)
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        found = values[np.clip(rows, 0, height - 1), np.clip(cols, 0, width - 1)]
        return np.where(inside[..., None], found, IGNORED)
    # Only what the square covers is handed over: images are large, squares are small.
    low = np.clip(np.floor(places.min(axis=(0, 1))).astype(np.intp), 0, [height - 2, width - 2])
    high = np.clip(np.ceil(places.max(axis=(0, 1))).astype(np.intp) + 1, low + 2, [height, width])
    part = torch.from_numpy(np.ascontiguousarray(values[low[0] : high[0], low[1] : high[1]], dtype=np.float32))
    # torch wants x before y, from -1 to 1 over the pixel centres.
    relative = 2 * (places - low) / (high - low - 1) - 1
    grid = torch.from_numpy(relative[..., ::-1].astype(np.float32))
    source = part.permute(2, 0, 1)[None]
    sampled = torch.nn.functional.grid_sample(source, grid[None], padding_mode="reflection", align_corners=True)
    return sampled[0].permute(1, 2, 0).numpy()


def degraded(
    image: NDArray[np.float32], *, rng: np.random.Generator, settings: AugmentationSettings
) -> NDArray[np.float32]:
    """Return an image of grey levels 0-255 as a worse scanner would give it: blur, noise, JPEG."""
    if rng.random() < 0.5:  # half of the views stay sharp
        sigma = rng.uniform(0, settings.blur_px)
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3.0)
    image = image + rng.normal(0, 255 * rng.uniform(0, settings.noise), image.shape).astype(np.float32)
    image = np.clip(image, 0, 255)
    if rng.random() < settings.jpeg:
        buffer = io.BytesIO()
        Image.fromarray(np.rint(image).astype(np.uint8)).save(buffer, format="JPEG", quality=int(rng.integers(40, 95)))
        image = np.asarray(Image.open(buffer), dtype=np.float32)
    return image
