"""The slide that a finished run was made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_reader import Run
from stimage_qupath.slide.reader import Slide
from stimage_qupath.slide.view import open_view


@contextmanager
def open_run_slide(finished: Run, path: Path | None = None, *, option: str = "--slide") -> Iterator[Slide]:
    """Open the slide that a run was made of, as it was read then.

    Parameters
    ----------
    finished
        The run.
    path
        Where the slide is now; None: where the run found it.
    option
        What the messages tell to pass.

    Raises
    ------
    UsageError
        It is not there, or is another one.
    ImageError
        It cannot be read.
    """
    noted = finished.record["settings"]
    place = path or Path(noted["image"])
    if not place.is_file() and not place.is_dir():
        msg = f"expected the slide of the run at {place}, found nothing there; pass {option} with the place where it is"
        raise UsageError(msg)
    with open_view(place, _view(tuple(noted.get("view", ())), finished)) as slide:
        if slide.content_id() != finished.record["image"]["content_id"]:
            msg = f"expected the slide that {finished.path} was made of, found another one at {place}; pass {option}"
            raise UsageError(msg)
        yield slide


def _view(view: tuple[str, ...], finished: Run) -> tuple[str, ...]:
    """Return the view with the plane of the regions, which a prediction takes from the annotations."""
    planes = {(span.region.z, span.region.t) for span in finished.spans} - {(0, 0)}
    if not planes or any(step.startswith("plane") for step in view):
        return view
    z, t = planes.pop()
    return (f"plane {z},{t}", *view)
