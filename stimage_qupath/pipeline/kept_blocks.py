"""Finished blocks of a run on disk while it goes on, so that one that was killed can be resumed.

Two things cost time and are kept: the nuclei of each block, and the features of the windows around them. What follows
from them (which nucleus belongs to which region, ids, predictions, tables) is computed anew.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath import __version__, names
from stimage_qupath.config import SegmentSettings
from stimage_qupath.export.block_store import Block, BlockStore
from stimage_qupath.models.encoders import Encoder, EncoderCard
from stimage_qupath.nuclei.blocks import BlockNuclei, Place
from stimage_qupath.nuclei.kept import as_arrays, from_arrays
from stimage_qupath.pipeline.inputs import Input
from stimage_qupath.results import CancelCheck


@dataclass(frozen=True, slots=True)
class KeptBlocks:
    """The blocks of one run. A :class:`~stimage_qupath.nuclei.kept.KeptNuclei`.

    Attributes
    ----------
    store
        Where they are.
    """

    store: BlockStore

    def load(self, place: Place) -> BlockNuclei | None:
        """Return the nuclei of a block, or None where it is not finished."""
        arrays = self.arrays(("nuclei", *place))
        return None if arrays is None else from_arrays(arrays)

    def save(self, place: Place, nuclei: BlockNuclei) -> None:
        """Keep the nuclei of a block."""
        self.store.save(("nuclei", *place), as_arrays(nuclei))

    def encoder(self, encoder: Encoder) -> Encoder:
        """Return an encoder that finds the features of the windows it has seen before."""
        return _KeptEncoder(encoder.card, encoder, self)

    def arrays(self, block: Block) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a block, or None where it is missing or was cut short with the power."""
        try:
            return self.store.load(block)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None


@dataclass(slots=True)
class _KeptEncoder:
    """An encoder whose features are kept, under a hash of the pixels and places that they are of."""

    card: EncoderCard
    original: Encoder
    kept: KeptBlocks

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return the features of windows; see :class:`~stimage_qupath.models.encoders.Encoder`."""
        seen = hashlib.sha256(np.ascontiguousarray(image))
        seen.update(np.ascontiguousarray(centres))
        block = ("features", seen.hexdigest()[:32])
        found = self.kept.arrays(block)
        if found is not None:
            return found["features"]
        features = self.original.encode(image, centres, device=device, batch_size=batch_size, cancelled=cancelled)
        self.kept.store.save(block, {"features": features})
        return features


@contextmanager
def kept_blocks(settings: SegmentSettings, source: Input, depends_on: dict[str, Any]) -> Iterator[KeptBlocks]:
    """Keep blocks beside the output of a run until it is finished.

    A run that is killed leaves them behind. One that ends otherwise removes them, unless it failed or was cancelled and
    had been started with ``resume``.

    Parameters
    ----------
    settings
        Of the run.
    source
        Its image.
    depends_on
        JSON-able: what else the blocks depend on, by names that a person understands.

    Raises
    ------
    UsageError
        To be resumed is a run with other settings.
    """
    manifest = {
        "version": __version__,
        "image": source.image_id,
        "view": list(settings.view),
        "pixel size": source.mpp,
        "cell expansion": settings.cell_expansion_um,
        **depends_on,
    }
    store = BlockStore(_beside(settings.output), manifest, resume=settings.resume)
    is_done = False
    try:
        yield KeptBlocks(store)
        is_done = True
    finally:
        if is_done or not settings.resume:
            store.remove()


def _beside(output: Path) -> Path:
    resolved = output.resolve()
    return resolved.with_name(f"{resolved.name}{names.BLOCKS_SUFFIX}")
