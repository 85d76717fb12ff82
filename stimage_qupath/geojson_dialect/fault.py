"""What is wrong with one feature, before it is known which feature it is."""

from __future__ import annotations

REEXPORT = "re-export the object from QuPath"


class FeatureFault(Exception):
    """A fault inside one feature; :func:`read_features` adds the feature's place and raises an AnnotationError.

    Parameters
    ----------
    expected
        What should stand there.
    found
        What stands there.
    advice
        The way out.
    """

    def __init__(self, *, expected: str, found: str, advice: str = REEXPORT) -> None:
        super().__init__(expected, found, advice)
        self.expected = expected
        self.found = found
        self.advice = advice

    def at(self, place: str) -> str:
        """Return the whole sentence for a feature called ``place``."""
        return f"expected {self.expected} in {place}, found {self.found}; {self.advice}"


def shown(value: object) -> str:
    """Return ``value`` short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
