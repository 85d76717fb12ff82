"""Predicted against measured expression: what of the differences between patients do predictions follow.

Per gene **across patients**: Pearson and Spearman of log expression, a bootstrap interval over patients, and p against
permuted patients, ``(b + 1) / (B + 1)`` with ``b`` of ``B`` permutations whose correlation is at least as far from 0
(Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9), Benjamini and Hochberg's FDR over genes. One permutation
moves all genes of a patient together, so that the null of the mean over genes keeps their correlation.

Within a patient **across genes** a correlation says that highly expressed genes are predicted high: a list of gene
means without any image reaches it. It is computed because it is often shown, and marked as no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.clinical.table import listed
from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import names_here

Float = NDArray[np.float64]

LEAST_PATIENTS: Final = 6
"""Fewer have under 720 orders: nothing is tested."""
NOT_EVIDENCE: Final = "Not evidence: genes differ in level in every patient alike; a list of gene means does as well."
COUNTS_ABOVE: Final = 50.0
"""Values of no log2 scale."""
EQUAL: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured expression of the patients and genes that a cohort has too, on a log scale.

    Attributes
    ----------
    patients, genes
        Names, in the order of ``values``.
    values
        (patient, gene).
    scale
        How the values became logs.
    """

    patients: tuple[str, ...]
    genes: tuple[str, ...]
    values: Float
    scale: str


def measured_expression(frame: pd.DataFrame, *, patients: Sequence[str], genes: Sequence[str]) -> Measured:
    """Return the part of a table that a cohort has predictions for, whichever way the table lies.

    Whole numbers above 50 are raw counts: they are scaled to the median total of the table's patients first. Other
    values, if none is negative and some are above 50, become log2(1 + x); all others are taken as logs already.

    Parameters
    ----------
    frame
        Patients by genes or genes by patients; the first column names the rows.
    patients, genes
        Of the cohort; renamed genes are found under either name.

    Raises
    ------
    UsageError
        Fewer than three patients or no gene are common, names are doubled, or values are missing or no numbers.
    """
    table = frame.set_index(frame.columns[0])
    table.index, table.columns = table.index.astype(str), table.columns.astype(str)
    if len(set(patients) & set(table.columns)) > len(set(patients) & set(table.index)):
        table = table.T
    common = [p for p in patients if p in table.index]
    called = names_here(genes, list(table.columns))
    shared = [g for g in genes if g in called]
    if len(common) < 3 or not shared:
        msg = (
            f"expected measured expression of at least 3 patients and 1 gene of the cohort, found {len(common)} "
            f"patients and {len(shared)} genes; name patients and genes as in the cohort"
        )
        raise UsageError(msg)
    for what, names in (("patients", table.index), ("genes", table.columns)):
        if names.has_duplicates:
            twice = names[names.duplicated()][0]
            msg = f"expected each name once among the {what} of the measured table, found {twice} twice; rename one"
            raise UsageError(msg)
    try:
        numbers = table.apply(pd.to_numeric)
    except (ValueError, TypeError) as error:
        msg = f"expected numbers in the measured table, found: {error}; leave text columns out"
        raise UsageError(msg) from error
    values, scale = _log_scale(
        numbers.loc[common].to_numpy(np.float64), numbers.columns.get_indexer([called[g] for g in shared])
    )
    lacking = [gene for gene, bad in zip(shared, np.isnan(values.sum(axis=0)), strict=True) if bad]
    if lacking:
        msg = f"expected a value for each patient and gene, found gaps in {listed(lacking)}; leave those genes out"
        raise UsageError(msg)
    return Measured(tuple(common), tuple(shared), values, scale)


def _log_scale(every: Float, chosen: NDArray[np.intp]) -> tuple[Float, str]:
    """Return the chosen columns on a log scale, and how."""
    known = every[np.isfinite(every)]
    if not known.size or known.min() < 0 or known.max() <= COUNTS_ABOVE:
        return every[:, chosen], "taken as given: a log scale"
    if (known == np.round(known)).all():
        total = np.nansum(every, axis=1)
        scaled = every[:, chosen] * (np.median(total) / np.maximum(total, 1))[:, None]
        return np.log2(1 + scaled), "raw counts scaled to the median total, then log2(1 + x)"
    return np.log2(1 + every[:, chosen]), "log2(1 + x)"


@dataclass(frozen=True, slots=True)
class BulkAgreement:
    """Predicted against measured.

    Attributes
    ----------
    genes
        A row a gene: ``gene, pearson, pearson_low, pearson_high, spearman, p, fdr``; NaN for a gene that does not vary
        on both sides, and for p and FDR of too few patients.
    summary
        As JSON has it: across patients, and within patients marked as no evidence.
    """

    genes: pd.DataFrame
    summary: dict[str, Any]


def agreement(
    predicted: Float, measured: Measured, *, replicates: int = 1000, permutations: int = 1999, seed: int = 0
) -> BulkAgreement:
    """Compare predictions with measurements.

    Parameters
    ----------
    predicted
        (patient, gene) expected counts, in the order of ``measured``; they are compared as log2(1 + x).
    measured
        The other side.
    replicates, permutations, seed
        Of the bootstrap over patients and of the permuted patients.
    """
    x, y = np.log2(1 + predicted), measured.values
    n = len(x)
    rng = np.random.default_rng(seed)
    r = column_correlation(x, y)
    rho = column_correlation(stats.rankdata(x, axis=0), stats.rankdata(y, axis=0))
    drawn = rng.integers(n, size=(replicates, n))
    resampled = np.array([column_correlation(x[rows], y[rows]) for rows in drawn])
    table = pd.DataFrame({"gene": measured.genes, "pearson": r})
    table["pearson_low"], table["pearson_high"] = _interval(resampled)
    table["spearman"] = rho
    tested = n >= LEAST_PATIENTS
    p, of_mean = (_permuted(x, y, r, permutations, rng)) if tested else (np.full(len(r), np.nan), None)
    table["p"], table["fdr"] = p, _fdr(p)
    low, high = np.percentile(_mean(resampled), [2.5, 97.5])
    across = {
        "patients": n,
        "genes": int(np.isfinite(r).sum()),
        "genes_constant": int(np.isnan(r).sum()),
        "pearson_mean": {"value": float(_mean(r[None])[0]), "ci": [float(low), float(high)]},
        "pearson_mean_p": of_mean,
        "spearman_mean": float(_mean(rho[None])[0]),
        "genes_fdr_below_0.05": int((table["fdr"] < 0.05).sum()) if tested else None,
        "note": None if tested else f"fewer than {LEAST_PATIENTS} patients: not tested",
    }
    return BulkAgreement(
        table, {"across_patients": across, "within_patients": within_patients(x, y), "scale": measured.scale}
    )


def within_patients(x: Float, y: Float) -> dict[str, Any]:
    """Return each patient's correlation across genes, marked for what it is."""
    r = column_correlation(x.T, y.T)
    known = r[np.isfinite(r)]
    spread = [None] * 3 if not len(known) else [float(v) for v in np.percentile(known, [50, 0, 100])]
    return {"pearson_median": spread[0], "range": spread[1:], "evidence": False, "note": NOT_EVIDENCE}


def column_correlation(x: Float, y: Float) -> Float:
    """Return Pearson's correlation of each column, (column,); NaN where either side is constant."""
    return _standard(x, y)[2]


def _standard(x: Float, y: Float) -> tuple[Float, Float, Float]:
    """Return both sides at mean 0 and length 1, and their products' sums; constant columns are NaN."""
    sides = []
    for values in (x, y):
        centred = values - values.mean(axis=0)
        length = np.sqrt((centred**2).sum(axis=0))
        constant = length <= EQUAL * np.maximum(np.abs(values).max(axis=0), 1) * np.sqrt(len(values))
        sides.append(centred / np.where(constant, np.nan, length))
    return sides[0], sides[1], np.clip((sides[0] * sides[1]).sum(axis=0), -1, 1)


def _permuted(x: Float, y: Float, r: Float, permutations: int, rng: np.random.Generator) -> tuple[Float, float]:
    """Return p of each gene, and of the mean over genes (one-sided: predictions should agree)."""
    a, b, _ = _standard(x, y)
    mean = float(_mean(r[None])[0])
    far, higher = np.zeros(len(r)), 0
    for _ in range(permutations):
        null = (a[rng.permutation(len(a))] * b).sum(axis=0)
        far += np.abs(null) >= np.abs(r) - EQUAL
        higher += float(_mean(null[None])[0]) >= mean - EQUAL
    p = np.where(np.isnan(r), np.nan, (far + 1) / (permutations + 1))
    return p, (higher + 1) / (permutations + 1)


def _interval(resampled: Float) -> Float:
    """Return both ends of each gene's interval, (2, gene); resamples in which a side is constant do not count."""
    ends = np.full((2, resampled.shape[1]), np.nan)
    some = np.isfinite(resampled).any(axis=0)
    ends[:, some] = np.nanpercentile(resampled[:, some], [2.5, 97.5], axis=0)
    return ends


def _mean(values: Float) -> Float:
    """Return the mean of each row over its finite values, 0 where there is none."""
    finite = np.isfinite(values)
    return np.asarray(np.where(finite, values, 0.0).sum(axis=1) / np.maximum(finite.sum(axis=1), 1))


def _fdr(p: Float) -> Float:
    found = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        found[known] = stats.false_discovery_control(p[known])
    return found
