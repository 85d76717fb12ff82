"""An encoder that gets by with the memory there is, and hands on no number that is none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.errors import DeviceMemoryError, UnknownModelError, is_memory_fault
from stimage_qupath.models.encoders import Encoder, EncoderCard
from stimage_qupath.results import CancelCheck


@dataclass(slots=True)
class CarefulEncoder:
    """Runs an encoder; where memory runs out it tries half the batch, down to one tile, then the CPU.

    What was found to fit is kept for the tiles that follow. An :class:`~stimage_qupath.models.encoders.Encoder`.

    Attributes
    ----------
    original
        The encoder.
    most
        Tiles at a time that fitted last; None before anything failed.
    on_cpu
        Whether the device was given up.
    """

    original: Encoder
    most: int | None = field(default=None, init=False)
    on_cpu: bool = field(default=False, init=False)

    @property
    def card(self) -> EncoderCard:
        """What the encoder expects and gives."""
        return self.original.card

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return the features of windows; see :class:`~stimage_qupath.models.encoders.Encoder`.

        Raises
        ------
        DeviceMemoryError
            One tile on the CPU is too much.
        UnknownModelError
            A feature is not finite.
        """
        while True:
            used = torch.device("cpu") if self.on_cpu else device
            batch = batch_size if self.most is None else min(batch_size, self.most)
            try:
                features = self.original.encode(image, centres, device=used, batch_size=batch, cancelled=cancelled)
            except (RuntimeError, MemoryError) as error:
                if not (is_memory_fault(error) or isinstance(error, torch.OutOfMemoryError)):
                    raise
                self._shrink(used, batch)
            else:
                return self._checked(features)

    def _shrink(self, used: torch.device, batch: int) -> None:
        """Settle on less; DeviceMemoryError where there is no less."""
        if used.type == "cuda":
            torch.cuda.empty_cache()
        if batch > 1:
            self.most = batch // 2
        elif used.type != "cpu":
            self.on_cpu, self.most = True, None
        else:
            msg = f"expected memory for one tile of {self.card.name} on the CPU, found too little; close other programs"
            raise DeviceMemoryError(msg)

    def _checked(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        wrong = np.atleast_1d(~np.isfinite(features).all(axis=1))
        if wrong.any():
            msg = (
                f"expected finite features of {self.card.name}, found NaN or infinity in {int(wrong.sum())} of "
                f"{len(wrong)} windows; its weights are damaged, or its precision is too coarse (float32 is safe)"
            )
            raise UnknownModelError(msg)
        return features
