import json

import pytest

from stimage_qupath import cli
from stimage_qupath.config import BenchSettings
from stimage_qupath.errors import StimageError
from stimage_qupath.pipeline import bench


def test_medians_are_taken_stage_by_stage():
    def one(seconds, total):
        stage = {"seconds": seconds, "items": 10, "items_per_second": 1.0}
        memory = {"peak_memory_mib": total, "device_memory_mib": None}
        return {"stages": {"encode": stage}, "seconds": total, "cells": 10, "with_start_seconds": total + 1, **memory}

    found = bench._median([one(1.0, 5.0), one(4.0, 2.0), one(2.0, 3.0)])
    assert found["stages"]["encode"] == {"seconds": 2.0, "items": 10, "items_per_second": 5.0}
    assert (found["seconds"], found["nuclei_per_second"], found["seconds_with_start"]) == (3.0, 3.3, 4.0)
    assert found["device_memory_mib"] is None


@pytest.mark.flow
def test_a_run_that_fails_says_why(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no image")
    with pytest.raises(StimageError, match=r"a\.tif"):
        bench.run(BenchSettings(slide=tmp_path / "a.tif", repeats=1))


@pytest.mark.slow
def test_the_command_times_every_stage(tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert cli.run(["bench", "--cells", "300", "--repeats", "1", "--explain", "--output", str(output)]) == 0
    found = json.loads(output.read_text(encoding="utf-8"))
    stages = {"tissue", "read", "label", "measure", "nuclei", "crop", "encode", "heads", "write", "import", "explain"}
    assert stages <= set(found["stages"])
    assert all(of["items"] > 0 for name, of in found["stages"].items() if name in stages - {"tissue"})
    assert found["cells"] > 100
    assert found["machine"]["cores"] >= 1
    printed = capsys.readouterr().out
    assert "nuclei in" in printed
    assert "encode" in printed
