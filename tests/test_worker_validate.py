"""A validation as QuPath starts it: a real process and its answer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stimage_qupath.pipeline import demo
from stimage_qupath.worker.channel import PREFIX
from stimage_qupath.worker.job import RESPONSE_FILE

ODD = "odd, name é α 100% & more"


def start(job):
    command = [sys.executable, "-u", "-X", "utf8", "-m", "stimage_qupath", "worker", "--validate", "validate.json"]
    done = subprocess.run(command, capture_output=True, cwd=job, timeout=120)
    answer = json.loads((job / RESPONSE_FILE).read_text(encoding="utf-8"))
    events = [json.loads(line.removeprefix(PREFIX)) for line in done.stdout.decode("ascii").splitlines()]
    assert events[-1] == {"event": answer["status"], **answer}
    assert done.returncode == answer["exit_code"]
    return answer, events


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / ODD
    return demo.run(folder).geojson.parent


@pytest.mark.flow
def test_the_answer_says_where_the_page_is(run_folder, tmp_path):
    job = tmp_path / ODD
    job.mkdir()
    ring = [[0, 0], [250, 0], [250, 300], [0, 300], [0, 0]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x + shift, y] for x, y in ring]]},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for name, shift in (("Tumor", 0), ("Stroma", 250))
    ]
    (job / "annotations.geojson").write_text(json.dumps(features), encoding="utf-8")
    settings = {"run": str(run_folder), "annotations": str(job / "annotations.geojson"), "output": str(job / "out")}
    (job / "validate.json").write_text(json.dumps(settings), encoding="utf-8")
    answer, events = start(job)
    assert answer["status"] == "done", answer
    (image,) = answer["images"]
    assert image["folder"] == str((job / "out").resolve())
    assert (job / "out" / "validation.html").is_file()
    assert "Research use only" in image["research_use"]
    assert events[0]["event"] == "started"
    assert "validation" in {event.get("stage") for event in events}
    answer, _ = start(job)  # the output is there
    assert (answer["status"], answer["exit_code"]) == ("failed", 2)
    assert answer["error"]["type"] == "OutputExistsError"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, marks=pytest.mark.flow),
        pytest.param("nonsense", marks=pytest.mark.flow),
        '{"run": "x", "strange": 1}',
    ],
)
def test_settings_that_are_no_good_are_said(tmp_path, text):
    if text is not None:
        (tmp_path / "validate.json").write_text(text, encoding="utf-8")
    answer, _ = start(tmp_path)
    assert (answer["status"], answer["exit_code"]) == ("failed", 2)
    assert "expected" in answer["error"]["message"]
