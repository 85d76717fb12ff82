"""AnnData: counts, or intensities of proteins (CODEX, PhenoCycler), with places in ``obsm["spatial"]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from stimage_qupath.spots.gene_names import is_accession
from stimage_qupath.spots.measurement import Measurement
from stimage_qupath.spots.source import Kind, Source
from stimage_qupath.spots.tenx_matrix import GENE_TYPES, PROTEIN_TYPES

SYMBOL_COLUMNS: Final = ("feature_name", "gene_name", "gene_symbol", "gene_symbols", "symbol", "SYMBOL")
ID_COLUMNS: Final = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id", "ENSEMBL")
"""Where scanpy, CELLxGENE and squidpy put names; the first that is there."""


def read_anndata(source: Source) -> Measurement:
    """Read raw counts from ``layers["counts"]``, ``X`` or ``raw.X``, and positions in level-0 px.

    Where ``obs`` has ``in_tissue``, spots outside tissue are left out; where ``var`` has ``feature_types``, other
    features than genes (or proteins).
    """
    if source.spots is not None:
        msg = (
            f"expected no spot table for platform anndata (positions are in obsm['spatial']), found {source.spots.name}"
        )
        raise ValueError(msg)
    return from_anndata(open_h5ad(source.counts), source.counts.name, kind=source.kind)


def open_h5ad(path: Path) -> anndata.AnnData:
    """Read a file; what is none, is said in one sentence."""
    if not path.is_file() or not h5py.is_hdf5(path):
        msg = f"expected an AnnData file (.h5ad), found another in {path.name}"
        raise ValueError(msg)
    return anndata.read_h5ad(path)


def from_anndata(
    data: anndata.AnnData, name: str, *, kind: Kind, positions_px: NDArray[np.float64] | None = None
) -> Measurement:
    """Return what an AnnData object in memory holds.

    Parameters
    ----------
    data
        Object.
    name
        Of its file, for messages.
    kind
        ``counts`` or ``protein``.
    positions_px
        (spot, 2); None takes ``obsm["spatial"]``.

    Raises
    ------
    ValueError
        It has no positions, or none of its features fit.
    """
    if positions_px is None:
        if "spatial" not in data.obsm:
            found = ", ".join(data.obsm) or "nothing"
            msg = f"expected obsm['spatial'] with x, y in pixels in {name}, found {found}"
            raise ValueError(msg)
        positions_px = np.asarray(data.obsm["spatial"], dtype=np.float64)[:, :2]
    values, var = _values(data, kind)
    spots, notes = _spots(data.obs)
    features, more = _features(var, kind)
    names, ids = _names(var.iloc[features])
    return Measurement(
        values=sparse.csr_matrix(values[spots][:, features]),
        genes=names,
        gene_ids=ids,
        positions_px=positions_px[spots],
        notes=(*notes, *more),
    )


def _values(data: anndata.AnnData, kind: Kind) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return the matrix and the table of its columns: ``raw`` has columns of its own."""
    if kind == "protein":
        return _sparse(data.X), data.var
    if "counts" in data.layers:
        return _sparse(data.layers["counts"]), data.var
    matrix = _sparse(data.X)
    if data.raw is not None and (matrix.data % 1).any():
        return _sparse(data.raw.X), data.raw.var
    return matrix, data.var


def _sparse(matrix: Any) -> sparse.csr_matrix:
    if matrix is None:
        msg = "expected values in X or layers['counts'], found none"
        raise ValueError(msg)
    return sparse.csr_matrix(matrix, dtype=np.float64)


def _spots(obs: pd.DataFrame) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    if "in_tissue" not in obs.columns:
        return np.arange(len(obs)), ()
    kept = np.flatnonzero(obs["in_tissue"].astype(str).isin(["1", "1.0", "True"]))
    outside = len(obs) - len(kept)
    return kept, (f"{outside} of {len(obs)} spots outside tissue (in_tissue 0) left out",) if outside else ()


def _features(var: pd.DataFrame, kind: Kind) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Return the columns of the kind; a file that names no kind of ours has one only."""
    if "feature_types" not in var.columns:
        return np.arange(len(var)), ()
    types = var["feature_types"].astype(str)
    wanted = types.isin(PROTEIN_TYPES if kind == "protein" else GENE_TYPES)
    if not wanted.any():
        return np.arange(len(var)), ()
    others = types[~wanted].value_counts()
    listed = ", ".join(f"{n} {name}" for name, n in others.items())
    return np.flatnonzero(wanted), (f"features of other types left out: {listed}",) if len(others) else ()


def _names(var: pd.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return symbols and accessions; ``var_names`` may be either."""
    index = tuple(map(str, var.index))
    ids = _first_column(var, ID_COLUMNS)
    if index and sum(map(is_accession, index)) > len(index) / 2:
        symbols = _first_column(var, SYMBOL_COLUMNS) or index
        return tuple(symbol or accession for symbol, accession in zip(symbols, index, strict=True)), index
    return index, ids


def _first_column(var: pd.DataFrame, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name in var.columns:
            return tuple("" if pd.isna(value) else str(value) for value in var[name])
    return ()
