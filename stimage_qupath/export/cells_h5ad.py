"""``cells.h5ad``: the whole panel, in AnnData's on-disk layout, written a block at a time.

Layout: https://anndata.readthedocs.io/en/stable/fileformat-prose.html. AnnData's own writer needs the matrices in
memory; here each dataset grows, so that a million nuclei x the full panel need no more than a block. The matrices are
not compressed: predictions are noise in their low bits, and gzip 1 took 30 times as long for 13 % less (50,000 nuclei x
1,000 genes, log-normal).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import h5py
import numpy as np

from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.tables import Columns
from stimage_qupath.results import Cells, Prediction

NestedText: TypeAlias = Mapping[str, "str | NestedText"]

VERSIONS: Final = {"anndata": "0.1.0", "dict": "0.1.0"}
"""Encoding versions; those of arrays, strings, categoricals and data frames are 0.2.0."""
TEXT: Final = h5py.string_dtype()
CHUNK_BYTES: Final = 2**20
CACHE_BYTES: Final = 4 * CHUNK_BYTES
"""For each dataset, so that a chunk is written once, however small the blocks that fill it."""
CHUNK_ROWS: Final = 2**14
"""Of the columns of ``obs``."""


class H5adSink:
    """Writes nuclei into a growing AnnData file.

    Parameters
    ----------
    path
        File to write.
    genes
        Names of the columns of ``X``; none when the nuclei were only segmented, and there is no ``X`` then.
    layers
        Attributes of :class:`Prediction` to write beside ``X``.
    columns
        Columns of ``obs`` besides ``region_id`` and ``cell_type``.
    """

    def __init__(
        self, path: Path, *, genes: tuple[str, ...], layers: tuple[str, ...], columns: tuple[str, ...]
    ) -> None:
        self._raw = OutputFile(path)
        self._file = h5py.File(self._raw, "w", rdcc_nbytes=CACHE_BYTES, track_order=False)
        self._regions: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._n = 0
        _mark(self._file, "anndata")
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _group(self._file, name, "dict")
        _frame(self._file, "var", index="gene", columns=())
        _write_text_array(self._file["var"], "gene", list(genes))
        _frame(self._file, "obs", index="cell_id", columns=("region_id", "cell_type", *columns))
        self._matrices = {name: self._matrix(name, len(genes)) for name in ("mean", *layers) if genes}
        self._ids = _growing(self._file["obs"], "cell_id", TEXT)
        self._columns = {name: _growing(self._file["obs"], name, np.float32) for name in columns}
        self._codes = {name: self._categorical(name) for name in ("region_id", "cell_type")}
        self._spatial = _growing(self._file["obsm"], "spatial", np.float64, width=2)

    def append(self, cells: Cells, region_id: str, columns: Columns, prediction: Prediction | None) -> None:
        """Add ``cells`` of one region, with their ``columns`` of ``obs`` and their prediction."""
        end = self._n + len(cells)
        region = self._regions.setdefault(region_id, len(self._regions))
        types = [None] * len(cells) if cells.classifications is None else cells.classifications.tolist()
        codes = [-1 if name is None else self._types.setdefault(name, len(self._types)) for name in types]
        parts: list[tuple[h5py.Dataset, Any]] = [
            (self._ids, cells.ids),
            (self._spatial, cells.centroids_px),
            (self._codes["region_id"], region),
            (self._codes["cell_type"], np.array(codes, dtype=np.int32)),
        ]
        parts += [(self._columns[name], values) for name, values in columns.items()]
        parts += [(dataset, getattr(prediction, name)) for name, dataset in self._matrices.items()]
        for dataset, values in parts:
            dataset.resize(end, axis=0)
            dataset[self._n : end] = values
        self._n = end
        self._raw.check()

    def close(self, *, uns: NestedText) -> None:
        """Write the categories and ``uns`` (text in nested mappings), and end the file."""
        for name, categories in (("region_id", self._regions), ("cell_type", self._types)):
            _write_text_array(self._file["obs"][name], "categories", list(categories))
        _write_mapping(self._file["uns"], uns)
        self.abandon()
        self._raw.check()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._file.close()
        self._raw.close()

    def _matrix(self, name: str, width: int) -> h5py.Dataset:
        """Return a new ``X`` (the mean) or layer."""
        if name == "mean":
            return _growing(self._file, "X", np.float32, width=width)
        return _growing(self._file["layers"], name, np.float32, width=width)

    def _categorical(self, name: str) -> h5py.Dataset:
        group = _group(self._file["obs"], name, "categorical")
        group.attrs["ordered"] = False
        return _growing(group, "codes", np.int32)


def _mark(node: h5py.HLObject, encoding: str) -> None:
    node.attrs["encoding-type"] = encoding
    node.attrs["encoding-version"] = VERSIONS.get(encoding, "0.2.0")


def _group(parent: h5py.Group, name: str, encoding: str) -> h5py.Group:
    group = parent.create_group(name)
    _mark(group, encoding)
    return group


def _frame(parent: h5py.Group, name: str, *, index: str, columns: tuple[str, ...]) -> None:
    group = _group(parent, name, "dataframe")
    group.attrs["_index"] = index
    group.attrs.create("column-order", list(columns), shape=(len(columns),), dtype=TEXT)


def _growing(parent: h5py.Group, name: str, dtype: Any, *, width: int | None = None) -> h5py.Dataset:
    """Return an empty dataset of one or two dimensions whose rows can grow."""
    rows = CHUNK_ROWS if width is None else max(1, min(CHUNK_ROWS, CHUNK_BYTES // (np.dtype(dtype).itemsize * width)))
    tail = () if width is None else (width,)
    dataset = parent.create_dataset(
        name, (0, *tail), dtype, maxshape=(None, *tail), chunks=(rows, *tail), track_times=False
    )
    _mark(dataset, "string-array" if dtype is TEXT else "array")
    return dataset


def _write_text_array(parent: h5py.Group, name: str, values: list[str]) -> None:
    dataset = parent.create_dataset(name, (len(values),), TEXT, data=values or None, track_times=False)
    _mark(dataset, "string-array")


def _write_mapping(group: h5py.Group, content: NestedText) -> None:
    """Write text and mappings of text below ``group``."""
    for key, value in content.items():
        if isinstance(value, str):
            _mark(group.create_dataset(key, data=value, dtype=TEXT, track_times=False), "string")
        else:
            _write_mapping(_group(group, key, "dict"), value)
