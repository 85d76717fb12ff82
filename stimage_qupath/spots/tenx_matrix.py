"""The feature-barcode matrix of 10x Genomics: one HDF5 file, or a folder of three text files.

Layout: https://www.10xgenomics.com/support/software/space-ranger/latest/analysis/outputs/spatial-outputs.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import io as scipy_io
from scipy import sparse

GENE_TYPES: Final = ("Gene Expression",)
PROTEIN_TYPES: Final = ("Antibody Capture", "Protein Expression")
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Counts with the names of rows and columns.

    Attributes
    ----------
    values
        (barcode, feature).
    barcodes
        Name of each row.
    ids, names, types
        Accession, symbol and kind of each feature.
    """

    values: sparse.csr_matrix
    barcodes: tuple[str, ...]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    types: tuple[str, ...]

    def of_types(self, wanted: Sequence[str]) -> tuple[FeatureMatrix, tuple[str, ...]]:
        """Return the features of these types, and a note on those left out.

        Raises
        ------
        ValueError
            There are none.
        """
        keep = np.flatnonzero(np.isin(np.array(self.types, dtype=object), list(wanted)))
        others = Counter(kind for kind in self.types if kind not in wanted)
        listed = ", ".join(f"{n} {kind}" for kind, n in others.most_common())
        if not keep.size:
            msg = f"expected features of type {' or '.join(wanted)}, found {listed or 'no features'}"
            raise ValueError(msg)
        chosen = replace(
            self,
            values=self.values[:, keep],
            ids=tuple(self.ids[i] for i in keep),
            names=tuple(self.names[i] for i in keep),
            types=tuple(self.types[i] for i in keep),
        )
        return chosen, (f"features of other types left out: {listed}",) if others else ()


def read_matrix(path: Path) -> FeatureMatrix:
    """Read ``*.h5``, or a folder with ``matrix.mtx``, ``features.tsv`` and ``barcodes.tsv``, gzipped or not.

    Raises
    ------
    ValueError
        The files are incomplete, damaged or of another layout.
    """
    return _read_folder(path) if path.is_dir() else _read_hdf5(path)


def _read_hdf5(path: Path) -> FeatureMatrix:
    try:
        with h5py.File(path) as file:
            if "matrix/features" not in file:
                found = ", ".join(file) or "nothing"
                msg = f"expected the group matrix/features of Space Ranger or Xenium in {path.name}, found {found}"
                raise ValueError(msg)
            group, features = file["matrix"], file["matrix/features"]
            shape = tuple(int(n) for n in group["shape"][:])
            values, indices, pointers = (group[key][:] for key in ("data", "indices", "indptr"))
            texts = [_texts(group["barcodes"]), *(_texts(features[key]) for key in ("id", "name", "feature_type"))]
    except (OSError, KeyError) as error:
        msg = f"expected a feature-barcode matrix in {path.name}, found a file that cannot be read: {error}"
        raise ValueError(msg) from error
    # Column-compressed (feature, barcode) is row-compressed (barcode, feature).
    return _checked(path, values, indices, pointers, shape, texts)


def _checked(
    path: Path,
    values: NDArray[np.float64],
    indices: NDArray[np.int64],
    pointers: NDArray[np.int64],
    shape: tuple[int, ...],
    texts: Sequence[tuple[str, ...]],
) -> FeatureMatrix:
    """Put the arrays together, refusing those that do not fit: SciPy would read beyond them."""
    features, barcodes = shape
    sizes = [len(text) for text in texts] == [barcodes, features, features, features]
    inside = not len(indices) or (indices.min() >= 0 and indices.max() < features)
    if not (sizes and inside and len(pointers) == barcodes + 1 and pointers[-1] == len(values) == len(indices)):
        msg = f"expected a matrix of {features} features and {barcodes} barcodes in {path.name}, found damaged indices"
        raise ValueError(msg)
    matrix = sparse.csr_matrix(
        (np.asarray(values, np.float64), np.asarray(indices, np.int64), np.asarray(pointers, np.int64)),
        shape=(barcodes, features),
    )
    matrix.sum_duplicates()
    return FeatureMatrix(matrix, *texts)


def _texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in dataset[:])


def _read_folder(folder: Path) -> FeatureMatrix:
    files = [_one_of(folder, names) for names in (("matrix.mtx",), ("features.tsv", "genes.tsv"), ("barcodes.tsv",))]
    matrix = scipy_io.mmread(io.BytesIO(_bytes(files[0])))
    features = [line.split("\t") for line in _lines(files[1])]
    barcodes = tuple(line.split("\t")[0] for line in _lines(files[2]))
    if matrix.shape != (len(features), len(barcodes)):
        msg = (
            f"expected a matrix of {len(features)} features and {len(barcodes)} barcodes in {files[0].name}, "
            f"found one of {matrix.shape[0]} x {matrix.shape[1]}"
        )
        raise ValueError(msg)
    return FeatureMatrix(
        values=sparse.csr_matrix(matrix.T, dtype=np.float64),
        barcodes=barcodes,
        ids=tuple(row[0] for row in features),
        names=tuple(row[1] if len(row) > 1 else row[0] for row in features),
        types=tuple(row[2] if len(row) > 2 else GENE_TYPES[0] for row in features),
    )


def _one_of(folder: Path, names: Iterable[str]) -> Path:
    candidates = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
    for path in candidates:
        if path.is_file():
            return path
    msg = f"expected {candidates[0].name} or {candidates[1].name} in the folder {folder.name}, found neither"
    raise ValueError(msg)


def _bytes(path: Path) -> bytes:
    """Return the content; the first bytes say whether it is gzipped, since downloads lose or keep the suffix."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content


def _lines(path: Path) -> list[str]:
    # Bioconductor writes the same files with quotes.
    return [line.replace('"', "") for line in _bytes(path).decode("utf-8-sig").splitlines() if line]
