"""Matrices of a run, block by block."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import shapely

from stimage_qupath.errors import UnknownGeneError, UsageError
from stimage_qupath.export import run_matrix
from stimage_qupath.export.run_folder import RunWriter, read_run
from stimage_qupath.results import Region


@pytest.fixture
def make_run(tmp_path, panel, make_cells, make_prediction):
    def make(predicted=True):
        writer = RunWriter(tmp_path / "run", panel=panel if predicted else None, model_card={})
        with writer:
            writer.start_region(Region(id=str(uuid.UUID(int=1)), geometry=shapely.box(0, 0, 900, 900)))
            writer.append(make_cells(25), make_prediction(25) if predicted else None)
            writer.finish({})
        return read_run(tmp_path / "run")

    return make


def test_blocks_hold_every_nucleus_once_and_no_more_than_a_block(make_run, make_prediction, monkeypatch):
    monkeypatch.setattr(run_matrix, "ROWS", 10)
    run, whole = make_run(), make_prediction(25)
    blocks = list(run_matrix.matrix_blocks(run, run_matrix.panel_of(run)))
    assert [block.rows for block in blocks] == [slice(0, 10), slice(10, 20), slice(20, 25)]
    for name in ("mean", "aleatoric", "epistemic"):
        parts = [getattr(block, name) for block in blocks]
        assert max(map(len, parts)) == 10
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name))


def test_genes_come_in_the_order_asked_for(make_run, make_prediction):
    (block,) = run_matrix.matrix_blocks(make_run(), ("KRT5", "ERBB2"))
    np.testing.assert_array_equal(block.mean, make_prediction(25).mean[:, [3, 0]])


def test_unknown_genes_are_refused(make_run):
    with pytest.raises(UnknownGeneError, match="found XIST"):
        next(run_matrix.matrix_blocks(make_run(), ("XIST",)))


def test_a_run_of_nuclei_alone_has_no_panel(make_run):
    with pytest.raises(UsageError, match="found nuclei alone"):
        run_matrix.panel_of(make_run(predicted=False))
