"""What is wrong with one feature, before it is known which feature it is."""

from __future__ import annotations

import reprlib
from itertools import islice
from typing import Any, Final

REEXPORT: Final = "re-export the object from QuPath"
MOST_SHOWN: Final = 60
MOST_OF_A_NAME: Final = 80


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


class _Short(reprlib.Repr):
    """Looks at no more of a value than a message shows, however large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 4 * MOST_SHOWN
        self.maxlist = self.maxdict = MOST_SHOWN // 2

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """Show the first entries in the order of the file."""
        if level <= 0:
            return "{...}"
        inside = islice(x.items(), self.maxdict)
        return "{" + ", ".join(f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in inside) + "}"


def shown(value: object) -> str:
    """Return ``value`` short enough for a message."""
    text = _Short().repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def shown_name(name: str) -> str:
    """Return a name short enough for a message, and on one line."""
    text = " ".join(name[: 4 * MOST_OF_A_NAME].split())
    return text if len(text) <= MOST_OF_A_NAME else f"{text[: MOST_OF_A_NAME - 3]}..."
