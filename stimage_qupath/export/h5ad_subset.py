"""Some regions and genes of ``cells.h5ad`` as a file of their own, copied a block of rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.run_blocks import panel_index, select_spans
from stimage_qupath.export.run_reader import Run
from stimage_qupath.export.whole_file import whole_file

ROWS: Final = 2**14
CHUNK_BYTES: Final = 2**20

Rows = Sequence[slice]
Genes = NDArray[np.intp]


def write_h5ad(path: Path, finished: Run, *, regions: Sequence[str] = (), genes: Sequence[str] = ()) -> int:
    """Write nuclei of ``regions`` (none: all) with ``genes`` (none: the panel) and return how many there are.

    Everything else of the file comes along: columns of ``obs``, layers, positions, the model's card.

    Raises
    ------
    StimageError
        As :func:`~stimage_qupath.export.run_blocks.select`; OutputError where the disk is full.
    """
    rows = [span.rows for span in select_spans(finished, regions)]
    with whole_file(path) as draft, OutputFile(draft) as raw:
        with h5py.File(finished.h5ad_path, "r") as source, h5py.File(raw, "w") as target:
            width = len(source["var"][source["var"].attrs["_index"]])
            index = panel_index(finished, genes) if genes else np.arange(width, dtype=np.intp)
            target.attrs.update(source.attrs)
            for name in source:
                _copy(source[name], target, name, rows, index)
        raw.check()
    return sum(part.stop - part.start for part in rows)


def _copy(node: Any, target: h5py.Group, name: str, rows: Rows, genes: Genes) -> None:
    """Copy a top-level entry of an AnnData file, cut along the axes that it has."""
    if name in ("obs", "obsm"):
        _copy_cut(node, target, name, rows, None)
    elif name in ("X", "layers"):
        _copy_cut(node, target, name, rows, genes)
    elif name in ("var", "varm"):
        _copy_cut(node, target, name, None, genes)
    else:
        target.copy(node, name)


def _copy_cut(node: Any, target: h5py.Group, name: str, rows: Rows | None, genes: Genes | None) -> None:
    if isinstance(node, h5py.Group):
        group = target.create_group(name)
        group.attrs.update(node.attrs)
        categorical = node.attrs.get("encoding-type") == "categorical"
        for key in node:
            if categorical and key == "categories":
                group.copy(node[key], key)
            else:
                _copy_cut(node[key], group, key, rows, genes)
        return
    if rows is None:
        dataset = target.create_dataset(name, data=node[:][genes], dtype=node.dtype)
    else:
        dataset = _copy_rows(node, target, name, rows, genes)
    dataset.attrs.update(node.attrs)


def _copy_rows(node: h5py.Dataset, target: h5py.Group, name: str, rows: Rows, genes: Genes | None) -> h5py.Dataset:
    count = sum(part.stop - part.start for part in rows)
    tail = node.shape[1:] if genes is None else (len(genes),)
    width = int(np.prod(tail, dtype=int)) * max(1, node.dtype.itemsize)
    chunk = None if not count or not width else (max(1, min(count, CHUNK_BYTES // width)), *tail)
    dataset = target.create_dataset(name, (count, *tail), node.dtype, chunks=chunk)
    place = 0
    for part in rows:
        for start in range(part.start, part.stop, ROWS):
            stop = min(start + ROWS, part.stop)
            block = node[start:stop]
            dataset[place : place + stop - start] = block if genes is None else block[:, genes]
            place += stop - start
    return dataset
