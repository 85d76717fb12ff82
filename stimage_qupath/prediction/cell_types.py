"""Types of nuclei by a cell-type model: measurements for each, and, of models of nuclei, its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.models.cell_type import TypePrediction
from stimage_qupath.models.cell_type_store import CellTypeModel
from stimage_qupath.models.scale import scale_notes
from stimage_qupath.names import type_measurement, type_quantity
from stimage_qupath.prediction.nucleus_features import NucleusFeatures
from stimage_qupath.results import CancelCheck, Cells, never_cancelled
from stimage_qupath.slide.reader import Slide


@dataclass(frozen=True, slots=True)
class CellTyper:
    """A model ready to look at nuclei.

    Attributes
    ----------
    model
        The heads and their card.
    features
        What they look at.
    """

    model: CellTypeModel
    features: NucleusFeatures

    @classmethod
    def of(cls, model: CellTypeModel) -> Self:
        """Load what the model looks with.

        Raises
        ------
        UnknownModelError, MissingPartError
            The encoder is another one than it was trained with, or cannot be had.
        """
        return cls(model, NucleusFeatures.from_dict(model.card["features"]))

    def notes(self, mpp: float, *, what: str) -> tuple[str, ...]:
        """Return what the user should know of the slide's pixel size; see :func:`scale_notes`."""
        encoder = self.features.encoder
        return () if encoder is None else scale_notes(encoder.card, mpp, what=what)

    def predict(
        self,
        slide: Slide,
        mpp: float,
        cells: Cells,
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck = never_cancelled,
    ) -> TypePrediction:
        """Return the types of nuclei; arguments as for :meth:`NucleusFeatures.of_cells`."""
        found = self.features.of_cells(slide, mpp, cells, device=device, batch_size=batch_size, cancelled=cancelled)
        return self.model.ensemble.predict(found)

    def measurements(self, prediction: TypePrediction) -> dict[str, NDArray[np.float32]]:
        """Return the probability of each class and the two entropies under QuPath's names, (nucleus,) each."""
        level = self.model.level
        quantity = type_quantity(level)
        columns = {
            type_measurement(level, name, quantity): prediction.probability[:, i]
            for i, name in enumerate(self.model.ensemble.classes)
        }
        columns[type_measurement(level, None, "entropy")] = prediction.entropy
        columns[type_measurement(level, None, "mutual information")] = prediction.mutual_information
        return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTypes:
    """Several models over the nuclei of a slide; at most one gives them their class.

    Attributes
    ----------
    slide, mpp
        Where the nuclei lie.
    typers
        The models, each of another level.
    classifier
        Which of them gives the class, or None.
    device, batch_size
        For encoders that are networks.
    """

    slide: Slide
    mpp: float
    typers: Sequence[CellTyper]
    classifier: int | None
    device: torch.device
    batch_size: int

    def typed(self, cells: Cells, *, cancelled: CancelCheck = never_cancelled) -> Cells:
        """Return the nuclei with measurements of their types; outlines, ids and order are untouched."""
        for number, typer in enumerate(self.typers):
            found = typer.predict(
                self.slide,
                self.mpp,
                cells,
                device=self.device,
                batch_size=self.batch_size,
                cancelled=cancelled,
            )
            cells = replace(cells, measurements={**cells.measurements, **typer.measurements(found)})
            if number == self.classifier:
                names = np.array(typer.model.ensemble.classes, dtype=object)
                cells = replace(cells, classifications=names[found.codes])
        return cells


def colors_of(typers: Sequence[CellTyper]) -> Mapping[str, tuple[int, int, int]]:
    """Return the colours that classes had where the models learnt them."""
    return {name: color for typer in typers for name, color in typer.model.colors.items()}
