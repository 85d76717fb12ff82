"""Blocks of a flow on disk, for the flow with the same manifest alone."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from stimage_qupath.errors import OutputError, OutputExistsError, UsageError
from stimage_qupath.export import block_store
from stimage_qupath.export.block_store import BlockStore


def test_blocks_come_back_as_they_were_and_only_on_request(tmp_path):
    store = BlockStore(tmp_path / "blocks", {"genes": ("A", "B")}, resume=False)
    arrays = {"value": np.array([0.1, np.nan], dtype=np.float32), "names": np.array(["Nucleus: Area µm^2"])}
    store.save(("nuclei", 2, -1), arrays)
    resumed = BlockStore(tmp_path / "blocks", {"genes": ["A", "B"]}, resume=True)
    assert ("nuclei", 2, -1) in resumed
    assert ("nuclei", 2, 1) not in resumed
    found = resumed.load(("nuclei", 2, -1))
    assert found["value"].tobytes() == arrays["value"].tobytes()
    assert found["names"].tolist() == ["Nucleus: Area µm^2"]
    anew = BlockStore(tmp_path / "blocks", {"genes": ["A", "B"]}, resume=False)
    assert ("nuclei", 2, -1) not in anew
    anew.remove()
    assert not list(tmp_path.iterdir())


def test_another_setting_is_named_and_nothing_is_lost(tmp_path):
    BlockStore(tmp_path / "blocks", {"model": "a", "seed": 1}, resume=False).save((0, 0), {"x": np.zeros(1)})
    with pytest.raises(UsageError, match=r"expected to resume with the same settings, found another model; leave"):
        BlockStore(tmp_path / "blocks", {"model": "b", "seed": 1}, resume=True)
    assert (0, 0) in BlockStore(tmp_path / "blocks", {"model": "a", "seed": 1}, resume=True)


def test_a_folder_of_something_else_is_never_touched(tmp_path):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="found something else; move it away"):
            BlockStore(tmp_path / "blocks", {}, resume=resume)
    assert (tmp_path / "blocks" / "thesis.txt").read_text() == "mine"


def test_a_disk_too_full_to_begin_leaves_nothing(tmp_path, monkeypatch):
    def full(path, data):
        path.with_suffix(".draft").write_bytes(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(block_store, "_write_whole", full)
    with pytest.raises(OutputError):
        BlockStore(tmp_path / "blocks", {}, resume=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_a_flow_killed_as_it_began_does_not_hinder_the_next(tmp_path, resume):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "manifest.draft").write_text("{")
    BlockStore(tmp_path / "blocks", {"seed": 1}, resume=resume).save((0, 0), {"x": np.zeros(1)})
    assert (0, 0) in BlockStore(tmp_path / "blocks", {"seed": 1}, resume=True)
