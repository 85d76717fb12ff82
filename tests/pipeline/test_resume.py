"""A run that was interrupted goes on where it stopped and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stimage_qupath import names
from stimage_qupath.config import PredictSettings, SegmentSettings
from stimage_qupath.errors import CancelledError, UsageError
from stimage_qupath.export.run_folder import read_run
from stimage_qupath.nuclei.blocks import BlockReader
from stimage_qupath.pipeline import predict

TABLES = (names.CELLS_GEOJSON, names.CELLS_PARQUET)


@pytest.fixture
def found_blocks(monkeypatch):
    """Return the list of blocks that are segmented from now on."""
    found, original = [], BlockReader.nuclei

    def nuclei(self, place):
        found.append(place)
        return original(self, place)

    monkeypatch.setattr(BlockReader, "nuclei", nuclei)
    return found


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make blocks small enough for the small slide to have several."""
    original = predict.choose_nuclei

    def choose_nuclei(settings, source):
        nuclei = original(settings, source)
        nuclei.chunks.keywords["block_um"] = 200.0
        return nuclei

    monkeypatch.setattr(predict, "choose_nuclei", choose_nuclei)


def cancelled_after(blocks, count):
    """Return a check that says stop once so many blocks were segmented."""
    return lambda: len(blocks) >= count


def interrupted(settings, found_blocks, count=3):
    with pytest.raises(CancelledError):
        predict.run(settings, cancelled=cancelled_after(found_blocks, count))


def tables(folder):
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_a_resumed_segmentation_is_the_same_to_the_byte(tissue_slide, tmp_path, found_blocks):
    settings = SegmentSettings(image=tissue_slide.path, output=tmp_path / "run", resume=True, threads=1)
    interrupted(settings, found_blocks)
    assert [path.name for path in tmp_path.iterdir()] == ["run.blocks"]
    before = list(found_blocks)
    found_blocks.clear()
    predict.run(settings)
    assert not set(before[:3]) & set(found_blocks)
    assert found_blocks
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    whole = SegmentSettings(image=tissue_slide.path, output=tmp_path / "whole", threads=3)
    found_blocks.clear()
    predict.run(whole)
    assert set(before[:3]) < set(found_blocks)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


@pytest.mark.flow
def test_a_resumed_prediction_encodes_only_what_is_missing(tissue_slide, tmp_path):
    settings = PredictSettings(image=tissue_slide.path, output=tmp_path / "run", overview=False, resume=True)
    whole = PredictSettings(image=tissue_slide.path, output=tmp_path / "whole", overview=False)

    def encoded():
        return sorted((tmp_path / "run.blocks").glob("block_features_*.npz"))

    with pytest.raises(CancelledError):
        predict.run(settings, cancelled=lambda: len(encoded()) >= 2)
    kept = encoded()
    assert len(kept) == 2
    times = {path: path.stat().st_mtime_ns for path in kept}
    seen = []
    predict.run(settings, lambda stage, *_: seen.extend(p.stat().st_mtime_ns == times[p] for p in kept if p.exists()))
    assert seen
    assert all(seen)  # read, not written again
    predict.run(whole)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


def test_another_setting_is_refused_and_the_blocks_stay(tissue_slide, tmp_path, found_blocks):
    common = {"image": tissue_slide.path, "output": tmp_path / "run", "resume": True}
    interrupted(SegmentSettings(**common), found_blocks)
    with pytest.raises(UsageError, match=r"same settings, found another cell expansion; leave --resume out"):
        predict.run(SegmentSettings(**common, cell_expansion_um=2.0))
    with pytest.raises(UsageError, match=r"found another segmenter or nuclei;"):
        predict.run(SegmentSettings(**common, segmenter="he"))
    assert [path.name for path in tmp_path.iterdir()] == ["run.blocks"]


def test_without_resume_nothing_of_an_earlier_run_is_used_or_left(tissue_slide, tmp_path, found_blocks):
    common = {"image": tissue_slide.path, "output": tmp_path / "run"}
    interrupted(SegmentSettings(**common, resume=True), found_blocks)
    first = set(found_blocks)
    found_blocks.clear()
    interrupted(SegmentSettings(**common), found_blocks)
    assert set(found_blocks) & first
    assert not list(tmp_path.iterdir())


@pytest.mark.flow
def test_a_block_that_was_cut_short_is_made_again(tissue_slide, tmp_path, found_blocks):
    settings = SegmentSettings(image=tissue_slide.path, output=tmp_path / "run", resume=True)
    interrupted(settings, found_blocks)
    for number, block in enumerate(sorted((tmp_path / "run.blocks").glob("block_*"))):
        block.write_bytes(block.read_bytes()[: 40 * number])
    predict.run(settings)
    predict.run(SegmentSettings(image=tissue_slide.path, output=tmp_path / "whole"))
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("command", ["segment", "predict"])
def test_a_killed_command_resumes_to_the_same_bytes(command, real_data, tmp_path):
    image = str(next((real_data / "slides").rglob("cmu-1-small-region.svs")))
    words = [sys.executable, "-u", "-m", "stimage_qupath", command, image, "--threads", "1", "--output"]
    kept = {"segment": ("block_nuclei_*", 2), "predict": ("block_features_*", 1)}[command]
    with subprocess.Popen([*words, "run"], cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ}) as process:
        deadline = time.monotonic() + 600
        while len([*(tmp_path / "run.blocks").glob(f"{kept[0]}.npz")]) < kept[1] and time.monotonic() < deadline:
            assert process.poll() is None, "the command ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run").exists()
    blocks = len(list((tmp_path / "run.blocks").glob("block_*.npz")))
    assert blocks >= kept[1]
    subprocess.run([*words, "run", "--resume"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([*words, "whole"], cwd=tmp_path, check=True, capture_output=True)
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]
    records = [json.loads((tmp_path / name / names.RUN_JSON).read_text(encoding="utf-8")) for name in ("run", "whole")]
    assert records[0]["regions"] == records[1]["regions"]
    assert len(read_run(tmp_path / "run")) > 100
