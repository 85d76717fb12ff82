"""What a response model sees: expression that is penalised in full, and covariates that are hardly penalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

COVARIATE_WEIGHT: Final = 10.0
"""Standard deviation of a standardised covariate beside one of 1 for a gene.

A coefficient is then 100 times less shrunk by the squared penalty, and 10 times less by the absolute one: what is known
of a patient anyway enters nearly as in a plain regression, yet rare categories cannot run away.
"""
CONSTANT: Final = 1e-9
"""Share of a column's magnitude under which its spread is rounding error."""


@dataclass(frozen=True, slots=True)
class Design:
    """Columns of a model.

    Attributes
    ----------
    values
        (patient, column); missing only in covariates.
    names
        Of the columns.
    is_covariate
        (column,).
    """

    values: Float
    names: tuple[str, ...]
    is_covariate: Bool

    def __post_init__(self) -> None:
        """Refuse missing expression and parts that do not fit."""
        if (
            self.values.ndim != 2
            or self.values.shape[1] != len(self.names)
            or len(self.is_covariate) != len(self.names)
        ):
            msg = f"expected a value, a name and a kind for each column, found {self.values.shape}, {len(self.names)}"
            raise ValueError(msg)
        if not np.isfinite(self.values[:, ~self.is_covariate]).all():
            msg = "expected finite expression in a Design, found missing or infinite values"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.values)

    @classmethod
    def of_genes(cls, expression: Float, genes: Sequence[str]) -> Design:
        """Return a design of expression alone, (patient, gene)."""
        return cls(np.asarray(expression, np.float64), tuple(genes), np.zeros(len(genes), dtype=bool))

    def beside(self, other: Design) -> Design:
        """Return the columns of both, of the same patients."""
        return Design(
            np.column_stack([self.values, other.values]),
            (*self.names, *other.names),
            np.concatenate([self.is_covariate, other.is_covariate]),
        )

    def take(self, rows: Index) -> Design:
        """Return the patients at ``rows``."""
        return Design(self.values[rows], self.names, self.is_covariate)

    def with_expression_of(self, rows: Index) -> Design:
        """Return the design in which each patient has the expression of another, and covariates of its own."""
        return Design(np.where(self.is_covariate, self.values, self.values[rows]), self.names, self.is_covariate)


def encode_covariates(frame: pd.DataFrame) -> Design:
    """Return covariates as columns: numbers as they are, a column of 0 and 1 for each value of anything else.

    A missing number stays missing (a model puts the mean of its training patients in its place) and gets a column that
    says so; a missing word is a value of its own. Nothing here looks at an outcome.

    Parameters
    ----------
    frame
        One row a patient, the covariates alone.
    """
    columns: dict[str, Float] = {}
    for name in frame.columns:
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numbers = values.to_numpy(np.float64, na_value=np.nan)
            columns[str(name)] = numbers
            if np.isnan(numbers).any():
                columns[f"{name} missing"] = np.isnan(numbers).astype(np.float64)
        else:
            words = values.astype(object).where(values.notna(), "missing").astype(str)
            columns |= {f"{name}: {word}": (words == word).to_numpy(np.float64) for word in sorted(words.unique())}
    return Design(np.column_stack(list(columns.values())), tuple(columns), np.ones(len(columns), dtype=bool))


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Centre and spread of each column on the training patients.

    Attributes
    ----------
    centre
        (column,) mean.
    scale
        (column,) what a deviation is divided by; infinite for a column that is constant, which so never counts.
    """

    centre: Float
    scale: Float

    @classmethod
    def fit(cls, design: Design) -> Standardiser:
        """Return the standardiser of some patients; missing covariates do not count."""
        known = ~np.isnan(design.values)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, design.values, 0).sum(axis=0) / count
        deviation = np.where(known, design.values - centre, 0.0)
        spread = np.sqrt((deviation**2).sum(axis=0) / count)
        constant = spread <= CONSTANT * np.maximum(np.abs(centre), 1e-3)
        # A penalty weighs covariates as such only where genes stand beside them.
        weight = np.where(design.is_covariate & (~design.is_covariate).any(), COVARIATE_WEIGHT, 1.0)
        return cls(centre, np.where(constant, np.inf, spread / weight))

    @property
    def varies(self) -> Bool:
        """Which columns are not constant, (column,)."""
        return np.isfinite(self.scale)

    def __call__(self, values: Float) -> Float:
        """Return standardised values, (patient, column), in columns' order in memory; missing ones are 0, the mean."""
        standard = np.asfortranarray((values - self.centre) / self.scale)
        np.copyto(standard, 0.0, where=np.isnan(standard))
        return standard
