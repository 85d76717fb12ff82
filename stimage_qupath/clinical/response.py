"""A drug response per patient: a word or a number in the cohort table becomes 0 or 1, or a number to be predicted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Kind = Literal["binary", "continuous"]

RESPONDED: Final = frozenset(
    [
        "1",
        "yes",
        "y",
        "true",
        "r",
        "responder",
        "response",
        "sensitive",
        "cr",
        "pr",
        "completeresponse",
        "partialresponse",
        "completeremission",
        "partialremission",
        "pcr",
        "ypcr",
        "pathologiccompleteresponse",
        "pathologicalcompleteresponse",
    ]
)
"""Words of patients who responded: RECIST 1.1's complete and partial response (objective response; Eisenhauer et al.
2009, Eur. J. Cancer 45:228), and the pathological complete response of neoadjuvant trials."""
NOT_RESPONDED: Final = frozenset(
    [
        "0",
        "no",
        "n",
        "false",
        "nr",
        "nonresponder",
        "noresponse",
        "resistant",
        "sd",
        "pd",
        "stabledisease",
        "progressivedisease",
        "progression",
        "rd",
        "residualdisease",
        "nopcr",
        "nonpcr",
    ]
)
NOT_KNOWN: Final = frozenset(["", "na", "nan", "ne", "notevaluable", "notevaluated", "unknown"])
LEAST_A_CLASS: Final = 10
"""Responders and non-responders; with fewer, folds hold one or two and an AUROC is a coin's toss."""
LEAST_PATIENTS: Final = 20
LEAST_VALUES: Final = 5
"""Different continuous values; fewer are classes."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is to be predicted.

    Attributes
    ----------
    kind
        ``binary`` or ``continuous``.
    values
        (patient,) 1 responded, 0 not; or the number. NaN: not known.
    rule
        How a table's cell became a value, as a sentence.
    """

    kind: Kind
    values: Float
    rule: str

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which patients have a response, (patient,)."""
        return np.isfinite(self.values)

    @property
    def strata(self) -> NDArray[np.intp]:
        """What folds spread evenly, of the known responses: the classes, or the thirds of the values."""
        values = self.values[self.known]
        if self.kind == "binary":
            return values.astype(np.intp)
        return np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values).astype(np.intp)

    def require_enough(self, folds: int) -> None:
        """Refuse a response that cannot be cross-validated.

        Raises
        ------
        UsageError
            Too few patients or values, one class alone, or a class smaller than its minimum.
        """
        values = self.values[self.known]
        if self.kind == "binary":
            responded, least = int(values.sum()), max(LEAST_A_CLASS, folds)
            if min(responded, len(values) - responded) < least:
                msg = (
                    f"expected at least {least} responders and {least} others for {folds} folds, found {responded} and "
                    f"{len(values) - responded}; a model of so few would only fit noise"
                )
                raise UsageError(msg)
            return
        least = max(LEAST_PATIENTS, 4 * folds)
        if len(values) < least:
            msg = f"expected at least {least} patients with a response for {folds} folds, found {len(values)}; add some"
            raise UsageError(msg)
        different = len(np.unique(values))
        if different < LEAST_VALUES:
            msg = f"expected a continuous response, found {different} different values; use --type binary for classes"
            raise UsageError(msg)


def binary_response(column: pd.Series, responders: Sequence[str] = ()) -> Response:
    """Return a binary response.

    Parameters
    ----------
    column
        Words or numbers, a row a patient.
    responders
        Words of responders, all others being non-responders; empty: :data:`RESPONDED` and :data:`NOT_RESPONDED`. Upper
        and lower case, blanks and hyphens do not matter.

    Raises
    ------
    UsageError
        A word is in neither list.
    """
    words = [_plain(cell) for cell in column]
    chosen = {_plain(word) for word in responders}
    unmet = sorted(chosen - set(words))
    if unmet:
        msg = f"expected each responders' word in column {column.name}, found none of {', '.join(unmet)}; check them"
        raise UsageError(msg)
    known = RESPONDED | NOT_RESPONDED | NOT_KNOWN
    foreign = {} if chosen else {str(cell): None for cell, word in zip(column, words, strict=True) if word not in known}
    if foreign:
        msg = (
            f"expected words such as CR, PR, SD, PD, pCR, yes, no, 1 or 0 in column {column.name}, found "
            f"{', '.join(list(foreign)[:5])}; name the words of responders with --responders"
        )
        raise UsageError(msg)
    positive = chosen or RESPONDED
    values = [np.nan if word in NOT_KNOWN - chosen else float(word in positive) for word in words]
    met = {of: sorted({str(c) for c, v in zip(column, values, strict=True) if v == of}) for of in (1.0, 0.0)}
    rule = f"responded: {', '.join(met[1.0]) or 'nobody'}; did not: {', '.join(met[0.0]) or 'nobody'}"
    return Response("binary", np.array(values), rule)


def continuous_response(values: Float, *, name: str, log: bool = False) -> Response:
    """Return a continuous response.

    Parameters
    ----------
    values
        (patient,), NaN where not known.
    name
        Of the column, for messages.
    log
        Take the natural logarithm, for an IC50 in concentration units.

    Raises
    ------
    UsageError
        ``log`` of a value that is not positive.
    """
    if not log:
        return Response("continuous", values, f"{name} as it stands")
    if (values <= 0).any():
        msg = (
            f"expected positive values of {name} to take the logarithm of, found {np.nanmin(values):g}; leave out "
            "--log-response if they are logarithms"
        )
        raise UsageError(msg)
    return Response("continuous", np.log(values), f"natural logarithm of {name}")


def _plain(cell: object) -> str:
    """Return a word without case, blanks and hyphens; whole numbers without their decimals."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, int | float | np.number) and not isinstance(cell, bool) and float(cell).is_integer():
        return str(int(cell))
    return re.sub(r"[\s_\-]+", "", str(cell).casefold())
