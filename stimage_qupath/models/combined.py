"""Several encoders side by side, ``context+colour``: each sees the image at its own scale, their features lie in a row.

The image comes at the finest pixel size. Every part gets the frame that it would have been given alone: coarser parts
the mean of the area of each of their pixels, parts that pad the slide's edge white where others clip there.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.models.encoders import COLOUR, CONTEXT, FLOAT32, Encoder, EncoderCard, Fingerprinted
from stimage_qupath.results import stop_if

if TYPE_CHECKING:
    import torch

    from stimage_qupath.results import CancelCheck

JOINT = "+"
WITHOUT_DOWNLOAD = (CONTEXT, COLOUR)
WHITE = 255
FINEST_RATIO = 100
"""Pixel sizes are taken to be in a ratio of whole numbers, the second no larger than this."""
MOST_ALIGN_PX = 512
"""Beyond, images would be mostly margin."""


class CombinedEncoder:
    """The features of several encoders in a row.

    Parameters
    ----------
    parts
        At least two encoders of different names.

    Raises
    ------
    UsageError
        There are fewer, one is named twice, or their pixel sizes are in no simple ratio.
    """

    def __init__(self, parts: Sequence[Encoder]) -> None:
        cards = [part.card for part in parts]
        names = [card.name for card in cards]
        if len(set(names)) < max(len(names), 2):
            msg = f"expected at least two different encoders, found {JOINT.join(names)}; name each once"
            raise UsageError(msg)
        self.parts = tuple(parts)
        self._mpp = min(card.mpp for card in cards)
        self._ratios = tuple(Fraction(card.mpp / self._mpp).limit_denominator(FINEST_RATIO) for card in cards)
        self.card = _card(cards, self._ratios)

    @property
    def images_seen(self) -> frozenset[str]:
        """SHA-256 of every image that a part was trained on, where it says so."""
        return frozenset().union(*(getattr(part, "images_seen", ()) for part in self.parts))

    def fingerprint(self) -> str:
        """Return a hash of what the features of all parts depend on."""
        # A part that cannot say what it depends on never has the same fingerprint twice: nothing of it is kept.
        own = [p.fingerprint() if isinstance(p, Fingerprinted) else secrets.token_hex() for p in self.parts]
        return hashlib.sha256(JOINT.join(own).encode()).hexdigest()

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return the features of all parts; see :class:`stimage_qupath.models.encoders.Encoder`."""
        if not len(centres):
            return np.empty((0, self.card.width), dtype=np.float32)
        features = []
        for part, ratio in zip(self.parts, self._ratios, strict=True):
            stop_if(cancelled)
            frame = _Frame.of(part.card, centres / float(ratio), ratio, image.shape, whole=self.card.pads_edges)
            features.append(
                part.encode(
                    frame.cut(image),
                    centres / float(ratio) - (frame.left, frame.top),
                    device=device,
                    batch_size=batch_size,
                    cancelled=cancelled,
                )
            )
        return np.concatenate(features, axis=1)


def _card(cards: Sequence[EncoderCard], ratios: Sequence[Fraction]) -> EncoderCard:
    name = JOINT.join(card.name for card in cards)
    # A multiple of this is a multiple of each part's own step on the part's own grid.
    align = math.lcm(*((card.align_px * ratio).numerator for card, ratio in zip(cards, ratios, strict=True)))
    if align > MOST_ALIGN_PX:
        sizes = ", ".join(f"{card.mpp:g}" for card in cards)
        msg = f"expected encoders with pixel sizes in a simple ratio, found {sizes} um for {name}; take fewer at a time"
        raise UsageError(msg)
    precisions = sorted({card.precision for card in cards} - {FLOAT32})
    return EncoderCard(
        name=name,
        source="; ".join(card.source for card in cards),
        licence="; ".join(dict.fromkeys(card.licence for card in cards)),
        gated=any(card.gated for card in cards),
        mpp=min(card.mpp for card in cards),
        tile_px=max(_window(card, ratio) for card, ratio in zip(cards, ratios, strict=True)),
        width=sum(card.width for card in cards),
        pads_edges=all(card.pads_edges for card in cards),
        align_px=align,
        precision=precisions[0] if precisions else FLOAT32,
        weights_sha256=hashlib.sha256(JOINT.join(str(card.weights_sha256) for card in cards).encode()).hexdigest(),
        notes=tuple(f"{card.name}: {note}" for card in cards for note in card.notes),
        parts=tuple(cards),
    )


def _margin(card: EncoderCard) -> int:
    """Return what is read around a place for an encoder, px of its own."""
    return card.tile_px // 2 + 1


def _window(card: EncoderCard, ratio: Fraction) -> int:
    """Return the window, in the finest pixels, whose margin holds that of a part, rounding to its grid included."""
    return card.tile_px if ratio == 1 else 2 * (math.ceil(ratio * (_margin(card) + 1)) - 1)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a part sees: a rectangle of its own pixels, relative to the corner of the image; it may reach beyond."""

    left: int
    top: int
    width: int
    height: int
    ratio: Fraction

    @classmethod
    def of(
        cls, card: EncoderCard, centres: NDArray[np.float64], ratio: Fraction, shape: tuple[int, ...], *, whole: bool
    ) -> _Frame:
        """Return the frame of a part; ``whole`` says that the image has all margins, so that nothing is missing."""
        size = np.array([int(shape[1] / ratio), int(shape[0] / ratio)])
        low = np.floor(centres.min(axis=0)).astype(np.int64) - _margin(card)
        low -= low % card.align_px
        high = np.ceil(centres.max(axis=0)).astype(np.int64) + _margin(card)
        if whole or not card.pads_edges:
            low, high = np.clip(low, 0, size - 1), np.clip(high, 1, size)
        (left, top), (width, height) = low.tolist(), (high - low).tolist()
        return cls(left, top, width, height, ratio)

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame's pixels, white where the image ends."""
        rows = slice(max(self.top, 0), max(self.top + self.height, 0))
        columns = slice(max(self.left, 0), max(self.left + self.width, 0))
        found = _area_mean(_area_mean(image, self.ratio, rows, axis=0), self.ratio, columns, axis=1)
        if found.dtype != np.uint8:
            found = np.rint(found).astype(np.uint8)
        missing = (self.height - found.shape[0], self.width - found.shape[1])
        if not any(missing):
            return np.ascontiguousarray(found)
        framed = np.full((self.height, self.width, 3), WHITE, dtype=np.uint8)
        top, left = max(-self.top, 0), max(-self.left, 0)
        framed[top : top + found.shape[0], left : left + found.shape[1]] = found
        return framed


def _area_mean(values: NDArray[Any], ratio: Fraction, wanted: slice, *, axis: int) -> NDArray[Any]:
    """Return pixels ``ratio`` times as wide along an axis, each the mean of what it covers; only those ``wanted``.

    The mean over a pixel is the difference of the running sum at its two edges, exact for whole numbers.
    """
    values = np.moveaxis(values, axis, 0)
    stop = min(wanted.stop, int(len(values) / ratio))
    if ratio == 1:
        return np.moveaxis(values[wanted.start : stop], 0, axis)
    edges = np.arange(wanted.start, stop + 1) * float(ratio)
    first = int(edges[0]) if len(edges) else 0
    part = values[first : math.ceil(edges[-1]) if len(edges) else 0].astype(np.float64)
    sums = np.concatenate([np.zeros((1, *part.shape[1:])), part.cumsum(axis=0)])
    whole = np.minimum(np.floor(edges - first).astype(np.intp), len(part) - 1)
    share = (edges - first - whole)[:, None, None]
    at_edges = sums[whole] + share * (sums[whole + 1] - sums[whole])
    return np.moveaxis(np.diff(at_edges, axis=0) / float(ratio), 0, axis)


def weights_of_parts(names: Sequence[str], weights: str | None) -> list[str | None]:
    """Return which part a local checkpoint is for: the one that would have to be downloaded.

    Raises
    ------
    UsageError
        Weights were given, and not exactly one part is such.
    """
    takers = [name for name in names if name not in WITHOUT_DOWNLOAD]
    if weights is not None and len(takers) != 1:
        msg = (
            f"expected encoder weights only where one of several encoders takes them, found {JOINT.join(names)}; "
            "leave --encoder-weights out"
        )
        raise UsageError(msg)
    return [weights if name in takers else None for name in names]
