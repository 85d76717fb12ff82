"""What ``predict`` is asked to do with a table of slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stimage_qupath.config.predict import SeveralSettings
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidesSettings(SeveralSettings):
    """Predict for a table of slides; ``image`` is the table."""

    flow: ClassVar[str] = "predict slides"

    def _check(self) -> None:
        SeveralSettings._check(self)
        if self.annotations is not None or self.nuclei is not None or self.mpp is not None:
            msg = "expected annotations, nuclei and mpp as columns of the table, found an option; leave it out"
            raise UsageError(msg)
