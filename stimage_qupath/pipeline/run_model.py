"""The model that a finished run was made with."""

from __future__ import annotations

from stimage_qupath.errors import UnknownModelError, UsageError
from stimage_qupath.export.run_reader import Run
from stimage_qupath.models.checkpoint import Model, load_model


def model_of_run(finished: Run) -> Model:
    """Load the model that a run was made with.

    Raises
    ------
    UsageError
        The run holds nuclei alone.
    UnknownModelError
        The model is not there any more, or another one lies in its place.
    """
    noted = finished.record.get("model")
    if noted is None:
        msg = f"expected a run with predictions at {finished.path}, found nuclei alone; run predict"
        raise UsageError(msg)
    model = load_model(str(finished.record["settings"]["model"]))
    if model.sha256 != noted["sha256"]:
        msg = f"expected the model that made {finished.path}, found another one called '{model.name}'; predict again"
        raise UnknownModelError(msg)
    return model
