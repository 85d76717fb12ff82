"""Cell types of a run: which models, which of them gives nuclei their class, and what the record says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from stimage_qupath.config import PredictSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.models.cell_type_store import load_cell_types
from stimage_qupath.nuclei.segment import CellChunk
from stimage_qupath.pipeline.inputs import Input
from stimage_qupath.pipeline.nuclei import NucleiSource
from stimage_qupath.prediction.cell_types import CellTyper, CellTypes, colors_of
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.results import CancelCheck

STAGE: Final = "cell types"


@dataclass(frozen=True, slots=True)
class TypesOfRun:
    """The cell-type models of a run.

    Attributes
    ----------
    types
        What looks at nuclei.
    warnings
        What the user should know.
    """

    types: CellTypes
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, settings: PredictSettings, source: Input, *, own_nuclei: bool) -> Self | None:
        """Load the models that ``settings`` ask for, None where they ask for none.

        Parameters
        ----------
        settings
            Of the run.
        source
            The open image.
        own_nuclei
            Whether the nuclei are this package's; the user's keep their class.

        Raises
        ------
        UsageError
            Two models speak of the same, or the class was asked for where it may not be given.
        UnknownModelError, MissingPartError, CalibrationError
            A model cannot be used, or not on this image.
        """
        if not settings.cell_types:
            return None
        typers = [CellTyper.of(load_cell_types(Path(name))) for name in settings.cell_types]
        levels = [typer.model.level for typer in typers]
        if len(set(levels)) < len(levels):
            msg = f"expected cell-type models that each speak of something else, found levels {', '.join(levels)}"
            raise UsageError(msg)
        notes = [note for typer in typers for note in typer.notes(source.mpp, what=settings.image.name)]
        device = choose_device(settings.device)
        types = CellTypes(
            slide=source.slide,
            mpp=source.mpp,
            typers=typers,
            classifier=_classifier(settings.classify, levels, own_nuclei=own_nuclei),
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
        )
        return cls(types, tuple(notes))

    def into(self, chunk: CellChunk, *, cancelled: CancelCheck) -> CellChunk:
        """Return a block whose nuclei have their types among the measurements."""
        return replace(chunk, cells=self.types.typed(chunk.cells, cancelled=cancelled))

    def coloured(self, nuclei: NucleiSource) -> NucleiSource:
        """Return the nuclei with the colours of the models' classes; those that the user brings come first."""
        return replace(nuclei, color_of_class={**colors_of(self.types.typers), **nuclei.color_of_class})

    def record(self) -> list[dict[str, Any]]:
        """Return what ``run.json`` says of the models."""
        return [
            {
                "name": typer.model.name,
                "sha256": typer.model.sha256,
                "level": typer.model.level,
                "meaning": typer.model.card.get("meaning"),
                "classes": list(typer.model.ensemble.classes),
                "gives_class": number == self.types.classifier,
                "note": typer.model.card.get("note"),
            }
            for number, typer in enumerate(self.types.typers)
        ]


def _classifier(classify: str, levels: list[Any], *, own_nuclei: bool) -> int | None:
    """Return which model gives nuclei their class.

    What a neighbourhood or a region is made of is not the nucleus's type, and written as its class only on request.
    """
    if classify == "always" and not own_nuclei:
        msg = (
            "expected nuclei of this run to give a class to, found the user's, which keep theirs; leave --classify out"
        )
        raise UsageError(msg)
    if classify == "never" or not own_nuclei:
        return None
    if "nucleus" in levels:
        return levels.index("nucleus")
    return 0 if classify == "always" else None
