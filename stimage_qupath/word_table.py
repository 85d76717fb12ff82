"""Tables that people write: CSV whose cells are read as text."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from stimage_qupath.errors import UsageError


def read_words(path: Path, *, what: str, separator: str = ",") -> pd.DataFrame:
    """Return a table with every cell as text, empty ones as ``""``.

    Parameters
    ----------
    path
        CSV in UTF-8.
    what
        What it is, for the error.
    separator
        Between cells.

    Raises
    ------
    UsageError
        It is missing, not text, empty, or has rows of more cells than columns.
    """
    if not path.is_file():
        msg = f"expected {what} at {path}, found no file; check the path"
        raise UsageError(msg)
    options = {"sep": separator, "dtype": str, "keep_default_na": False, "index_col": False, "encoding": "utf-8-sig"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the last column would be lost
            return pd.read_csv(path, **options)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # UnicodeDecodeError, pandas' own: ValueErrors
        said = " ".join(str(error).split())
        msg = f"expected {what} as CSV in UTF-8 at {path}, found: {said}; save it as CSV again"
        raise UsageError(msg) from error
