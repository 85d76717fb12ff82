"""A prediction that brings its report along."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest

from stimage_qupath import names
from stimage_qupath.config import PredictSettings
from stimage_qupath.export.run_reader import read_run, what_is_foreign
from stimage_qupath.pipeline import predict


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    image = folder / "histo.jpg"
    shutil.copyfile(Path(str(resources.files("stardist") / "data" / "images" / "histo.jpg")), image)
    settings = PredictSettings(image=image, output=folder / "run", mpp=0.5, report=True, overview=False)
    return predict.run(settings)


def test_the_report_lies_in_the_run_and_does_not_hinder_it(predicted):
    run = Path(predicted["output"])
    assert predicted["report"] == str(run / names.REPORT_HTML)
    text = (run / names.REPORT_HTML).read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    for gene in predicted["settings"]["genes"] or json.loads((run / names.RUN_JSON).read_bytes())["genes"]:
        assert f'data-gene="{gene}"' in text
    assert len(read_run(run)) == predicted["cells"] > 50
    assert what_is_foreign(run) is None  # may be replaced as any run
    spatial = json.loads((run / names.SPATIAL_JSON).read_bytes())
    assert spatial["nuclei"] == predicted["cells"]
    assert all(of["moran_i_beyond_window"] is None for of in spatial["genes"].values())  # the image is one window
