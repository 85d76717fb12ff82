"""What a method is asked, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.attribution.scene import Scene
from stimage_qupath.attribution.targets import Explained, Outputs
from stimage_qupath.errors import UsageError
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.results import CancelCheck, never_cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Model and means.

    Attributes
    ----------
    encoder, outputs
        From pixels to the numbers that are explained.
    device, batch_size
        Where networks run and how many windows at a time; the answer depends on neither.
    samples
        Perturbations a window, of LIME and KernelSHAP.
    seed
        Of every random number.
    cancelled
        Asked between batches.
    """

    encoder: Encoder
    outputs: Explained
    device: torch.device
    batch_size: int = 64
    samples: int = 500
    seed: int = 0
    cancelled: CancelCheck = never_cancelled

    @property
    def gene_outputs(self) -> Outputs:
        """The outputs, where genes are explained; UsageError where it is a cell type."""
        if not isinstance(self.outputs, Outputs):
            msg = f"expected genes to be explained here, found {', '.join(self.outputs.genes)}; pass --gene"
            raise UsageError(msg)
        return self.outputs

    def values(self, image: NDArray[np.uint8], centres: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the outputs of places of an image, (place, output)."""
        features = self.encoder.encode(
            image, centres, device=self.device, batch_size=self.batch_size, cancelled=self.cancelled
        )
        return self.outputs.of_arrays(features)

    def difference(self, scene: Scene, filled: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return what replacing all features takes away, summed over weighted places, (output,)."""
        empty = scene.without(np.ones(scene.features, dtype=bool), filled)
        change = self.values(scene.image, scene.centres) - self.values(empty, scene.centres)
        return np.asarray(scene.weights @ change)
