"""The worker as QuPath starts it: a real process, its lines, its answer, and its end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stimage_qupath import names
from stimage_qupath.export.run_folder import read_run
from stimage_qupath.worker.channel import PREFIX
from stimage_qupath.worker.job import RESPONSE_FILE
from stimage_qupath.worker.watch import CANCEL_FILE

ODD = 'odd name, "é" α 100% & more'.replace('"', "" if sys.platform == "win32" else '"')
SQUARE = [[60, 60], [500, 60], [500, 500], [60, 500], [60, 60]]
STUCK_LOADING = "import time, stimage_qupath.models.checkpoint as c; c.load_model = lambda name: time.sleep(60)"
STUCK_TISSUE = """
import sys, time, stimage_qupath.pipeline.inputs as i
def stuck(*a, **k):
    print("STUCK", file=sys.stderr, flush=True)
    time.sleep(60)
i.find_tissue = stuck
"""
SLOW_NUCLEI = """
import time, stimage_qupath.pipeline.nuclei as n
from stimage_qupath.results import stop_if
def slow(*a, on_progress, cancelled, **k):
    for i in range(200):
        on_progress("nuclei", i, 200, "")
        stop_if(cancelled)
        time.sleep(0.2)
    yield from ()
n.segment_regions = slow
"""
STUCK_ENCODING = """
import sys, time, stimage_qupath.pipeline.predict as p
def stuck(self, chunks, **k):
    for chunk in chunks:
        print("STUCK", file=sys.stderr, flush=True)
        time.sleep(60)
        yield chunk, None
p.CellPredictor.predict = stuck
"""
STUCK_WRITING = """
import sys, time, stimage_qupath.pipeline.predict as p
def stuck(self, record):
    print("STUCK", file=sys.stderr, flush=True)
    time.sleep(60)
p.RunWriter.finish = stuck
"""


class Worker:
    """A worker process and what it says, line by line with the second it came."""

    def __init__(self, request, *, patch="", env=None, parent=None):
        if patch:  # the same entry, with one part of the engine made slow
            code = f"{patch}\nfrom stimage_qupath import worker\nworker.main(['--request', {str(request)!r}])"
            command = [sys.executable, "-u", "-X", "utf8", "-c", code]
        else:
            command = [sys.executable, "-u", "-X", "utf8", "-m", "stimage_qupath", "worker", "--request", str(request)]
        self.folder = request.parent
        self.start = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        with (self.folder / "worker.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append((time.monotonic() - self.start, line.decode("ascii").rstrip("\n")))

    def wait(self, timeout=60):
        """Return the exit code."""
        try:
            code = self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._reader.join(10)
        return code

    @property
    def events(self):
        assert all(line.startswith(PREFIX) for _, line in self.lines), self.lines
        return [json.loads(line.removeprefix(PREFIX)) for _, line in self.lines]

    def wait_for(self, stage, timeout=40):
        """Wait until the stage is announced."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if any(f'"stage": "{stage}"' in line for _, line in list(self.lines)):
                return
            assert self.process.poll() is None, (self.folder / "worker.log").read_text(encoding="utf-8")
            time.sleep(0.05)
        pytest.fail(f"no stage {stage} in {self.lines}")

    def wait_until_stuck(self, timeout=40):
        """Wait until a patched part says that it will not come back."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if "STUCK" in (self.folder / "worker.log").read_text(encoding="utf-8"):
                return
            time.sleep(0.05)
        pytest.fail("never got there")

    @property
    def response(self):
        return json.loads((self.folder / RESPONSE_FILE).read_text(encoding="utf-8"))

    def relatives(self):
        """Return the processes of the worker's session that are alive (Linux)."""
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                alive.append(stat.parent.name)
        return alive


def annotations(path, ring=SQUARE):
    feature = {
        "type": "Feature",
        "id": "3f1c2f3e-6f0a-4b57-9d1c-5f3a1f5e9c11",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation"},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    return path


def image(slide, regions, **changes):
    about = {"id": "1", "name": slide.path.name, "uri": slide.path.as_uri(), "width": 1110, "height": 1483}
    return about | {"pixel_um": [0.5, 0.5], "regions": str(regions)} | changes


def write_request(folder, images, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    request = {"api": 1, "run_id": "r1", "output": str(folder / "runs"), "model": {"id": "starter"}, "genes": ["BGN"]}
    path = folder / "request.json"
    path.write_text(json.dumps(request | {"images": images, "device": "cpu"} | changes), encoding="utf-8")
    return path


@pytest.fixture
def job(tissue_slide, tmp_path):
    """Return a function that writes a request for the square of the tissue slide; its arguments change the image."""

    def make(**changes):
        folder = tmp_path / "job"
        folder.mkdir()
        return write_request(folder, [image(tissue_slide, annotations(folder / "regions.geojson")) | changes])

    return make


def assert_nothing_written(folder):
    runs = folder / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []
    assert not list(folder.glob("*.draft"))


def assert_one_answer(worker, status):
    ends = [event["event"] for event in worker.events if event["event"] in ("done", "failed", "cancelled")]
    assert ends == [status]
    assert worker.events[-1]["event"] == status


@pytest.fixture(scope="module")
def finished(tissue_slide, tmp_path_factory):
    """Return one whole run in a folder of an odd name under the C locale."""
    folder = tmp_path_factory.mktemp("worker") / ODD
    folder.mkdir()
    slide = folder / f"{ODD}.tif"
    slide.write_bytes(tissue_slide.path.read_bytes())
    good = image(tissue_slide, annotations(folder / "regions.geojson"), uri=slide.as_uri(), name=slide.name)
    request = write_request(folder, [good])
    environment = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    worker = Worker(request, env=environment)
    assert worker.wait() == 0, (folder / "worker.log").read_text(encoding="utf-8")
    return worker


def test_a_run_says_started_progress_and_done(finished):
    events = finished.events
    assert events[0] | {"package": ""} == {
        "event": "started", "api": 1, "run_id": "r1", "package": "", "device": "cpu", "images": 1,
    }  # fmt: skip
    assert_one_answer(finished, "done")
    assert {event["event"] for event in events[1:-1]} == {"progress"}
    stages = [event["stage"] for event in events[1:-1]]
    assert "loading the package" in stages
    assert "nuclei" in stages
    times = [at for at, _ in finished.lines]
    assert max(after - before for before, after in zip([0, *times], times, strict=False)) < 5


def test_the_answer_on_disk_is_the_last_line(finished):
    last = finished.events[-1]
    assert finished.response == {key: value for key, value in last.items() if key != "event"}
    assert finished.response["exit_code"] == 0
    assert finished.response["error"] is None
    assert finished.response["peak_memory_mib"] is None or finished.response["peak_memory_mib"] > 10


def test_the_answer_indexes_the_run_folder(finished):
    (about,) = finished.response["images"]
    run = read_run(Path(about["folder"]))
    ids = list(run.table()["cell_id"])
    assert Path(about["folder"]) == finished.folder / "runs" / "image-1"
    assert about["cells"] == len(ids) > 5
    assert about["genes"] == ["BGN"]
    assert about["regions"] == [
        {"id": "3f1c2f3e-6f0a-4b57-9d1c-5f3a1f5e9c11", "first": 0, "count": len(ids), "first_id": ids[0]}
    ]
    assert about["research_use"].startswith("Research use only.")
    assert about["name"] == f"{ODD}.tif"


@pytest.mark.flow
def test_a_second_run_does_not_replace_the_first(finished):
    before = (finished.folder / "runs" / "image-1" / names.RUN_JSON).read_bytes()
    again = Worker(finished.folder / "request.json")
    response = (finished.folder / RESPONSE_FILE).read_bytes()
    assert again.wait() == 2
    assert again.response["error"]["type"] == "OutputExistsError"
    assert (finished.folder / "runs" / "image-1" / names.RUN_JSON).read_bytes() == before
    (finished.folder / RESPONSE_FILE).write_bytes(response)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "found text that is not JSON"),
        ('{"api": 2}', "run install-scripts"),
        (None, "expected a request in UTF-8"),
    ],
)
def test_a_broken_request_fails_at_once(tmp_path, text, message):
    request = tmp_path / "request.json"
    if text is not None:
        request.write_text(text, encoding="utf-8")
    worker = Worker(request)
    assert worker.wait(20) == 2
    assert_one_answer(worker, "failed")
    assert [event["event"] for event in worker.events] == ["failed"]
    assert message in worker.response["error"]["message"]
    assert worker.response["error"]["type"] == "UsageError"


UNDOABLE = (
    ({"width": 1109}, 2, "expected tissue.tif of 1109 x 1483 px as QuPath shows it, found 1110 x 1483 px"),
    ({"series": 1}, 4, "expected series 1, z 0, t 0 in tissue.tif, found no OME metadata"),
    ({"z": 2}, 4, "expected series 0, z 2, t 0 in tissue.tif, found 2 pages"),
    ({"pixel_um": [0.5, 0.6]}, 5, "expected square pixels, found 0.5 x 0.6 um"),
    ({"uri": "file:///nowhere/none.svs"}, 2, "expected an image file, found nothing"),
    ({"uri": "https://server/1"}, 2, "expected an image on a disk"),
)


def test_images_that_cannot_be_done_say_why(tissue_slide, tmp_path):
    regions = annotations(tmp_path / "regions.geojson")
    images = [image(tissue_slide, regions, id=str(n), **changes) for n, (changes, _, _) in enumerate(UNDOABLE)]
    worker = Worker(write_request(tmp_path, images))
    assert worker.wait() == 10
    assert_one_answer(worker, "failed")
    for about, (_, code, message) in zip(worker.response["images"], UNDOABLE, strict=True):
        assert about["status"] == "failed"
        assert about["exit_code"] == code
        assert message in about["error"]["message"]
        assert about["error"]["hint"]
    assert_nothing_written(worker.folder)


@pytest.mark.flow
def test_an_image_that_cannot_be_done_ends_with_its_code(job):
    worker = Worker(job(pixel_um=[0.5, 0.6]))
    assert worker.wait() == 5
    assert_one_answer(worker, "failed")
    assert worker.response["error"]["message"] == worker.response["images"][0]["error"]["message"]
    assert worker.response["error"]["hint"]
    assert_nothing_written(worker.folder)


@pytest.mark.flow
def test_a_failed_image_does_not_stop_the_others(tissue_slide, tmp_path):
    regions = annotations(tmp_path / "regions.geojson")
    images = [image(tissue_slide, regions, id="bad", width=5), image(tissue_slide, regions, id="good")]
    worker = Worker(write_request(tmp_path, images))
    assert worker.wait() == 10
    assert_one_answer(worker, "failed")
    assert [about["status"] for about in worker.response["images"]] == ["failed", "done"]
    assert [about["exit_code"] for about in worker.response["images"]] == [2, 0]
    assert worker.response["error"]["type"] == "PartialFailureError"
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["image-good"]


@pytest.mark.flow
def test_an_image_that_qupath_turns_is_read_turned(tissue_slide, tmp_path):
    """A quarter turn clockwise takes (x, y) to (1483 - y, x): the nuclei are the same, at turned places."""
    plain = image(tissue_slide, annotations(tmp_path / "plain.geojson"), id="plain")
    ring = [[1483 - y, x] for x, y in SQUARE]
    turned = image(tissue_slide, annotations(tmp_path / "turned.geojson", ring), id="turned", rotation=90)
    worker = Worker(write_request(tmp_path, [plain, turned | {"width": 1483, "height": 1110}]))
    assert worker.wait() == 0, worker.response
    places = {
        folder.name: read_run(folder).table(["x_px", "y_px"]).to_numpy() for folder in (tmp_path / "runs").iterdir()
    }
    expected = np.column_stack([1483 - places["image-plain"][:, 1], places["image-plain"][:, 0]])
    distance = np.linalg.norm(expected[:, None] - places["image-turned"][None], axis=2)
    assert len(expected) == len(places["image-turned"]) > 5
    assert distance.min(axis=1).max() < 1


@pytest.mark.flow
def test_a_model_that_is_another_one_is_refused(tissue_slide, tmp_path):
    regions = annotations(tmp_path / "regions.geojson")
    model = {"id": "starter", "sha256": "0" * 64}
    worker = Worker(write_request(tmp_path, [image(tissue_slide, regions)], model=model))
    assert worker.wait() == 2
    assert worker.response["error"]["type"] == "UnknownModelError"
    assert worker.response["images"][0]["status"] == "not started"


@pytest.mark.flow
@pytest.mark.parametrize(
    ("stage", "patch"),
    [
        ("loading the package", ""),
        ("loading the model", STUCK_LOADING),
        ("stuck", STUCK_TISSUE),
        ("nuclei", SLOW_NUCLEI),
        ("stuck", STUCK_ENCODING),
        ("stuck", STUCK_WRITING),
    ],
    ids=["import", "load", "tissue", "nuclei", "encode", "write"],
)
def test_a_cancel_ends_every_stage(job, stage, patch):
    worker = Worker(job(regions=None) if patch == STUCK_TISSUE else job(), patch=patch)
    if stage == "stuck":
        worker.wait_until_stuck()
    else:
        worker.wait_for(stage)
    (worker.folder / CANCEL_FILE).touch()
    asked = time.monotonic()
    code = worker.wait(30)
    assert time.monotonic() - asked < 3
    assert code == 7
    if sys.platform == "linux":
        assert worker.relatives() == []
    assert_one_answer(worker, "cancelled")
    assert worker.response["status"] == "cancelled"
    assert worker.response["images"][0]["status"] == "not started"
    assert_nothing_written(worker.folder)


@pytest.mark.slow
def test_a_long_stage_is_heard_of_every_five_seconds(job):
    worker = Worker(job(), patch=STUCK_LOADING)
    worker.wait_for("loading the model")
    time.sleep(6)
    (worker.folder / CANCEL_FILE).touch()
    worker.wait(30)
    times = [at for at, _ in worker.lines]
    assert max(after - before for before, after in itertools.pairwise(times)) < 5
    assert sum("loading the model" in line for _, line in worker.lines) >= 3


@pytest.mark.flow
@pytest.mark.skipif(sys.platform == "win32", reason="no polite signals there")
def test_a_polite_kill_is_a_cancel(job):
    worker = Worker(job(), patch=SLOW_NUCLEI)
    worker.wait_for("nuclei")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 7
    assert_one_answer(worker, "cancelled")
    assert_nothing_written(worker.folder)


@pytest.mark.flow
def test_a_killed_worker_leaves_no_answer_and_the_next_one_cleans_up(job):
    request = job()
    (request.parent / RESPONSE_FILE).write_text("old", encoding="utf-8")
    worker = Worker(request, patch=STUCK_ENCODING)
    worker.wait_until_stuck()
    worker.process.kill()
    worker.wait(10)
    assert not (worker.folder / RESPONSE_FILE).exists()
    left = {path.suffix for path in (worker.folder / "runs").iterdir()}
    assert left == {names.PARTIAL_SUFFIX, names.LOCK_SUFFIX}
    assert Worker(request).wait() == 0
    assert [folder.name for folder in (worker.folder / "runs").iterdir()] == ["image-1"]


def test_a_worker_stops_when_its_parent_is_gone(job):
    stand_in = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    worker = Worker(job(), patch=SLOW_NUCLEI, env={"STIMAGE_PARENT_PID": str(stand_in.pid)})
    worker.wait_for("nuclei")
    stand_in.kill()
    stand_in.wait()
    assert worker.wait(5) == 7
    assert "is gone" in worker.response["error"]["message"]
    assert_nothing_written(worker.folder)


@pytest.mark.flow
def test_an_orphan_stops_although_nobody_reads_its_lines(job):
    request = job()
    code = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {SLOW_NUCLEI!r} + 'from stimage_qupath import worker\\n'\n"
        f"    + 'worker.main([\"--request\", ' + repr({str(request)!r}) + '])'], stdout=subprocess.PIPE)\n"
        "worker.stdout.readline()"  # it runs; from here on nobody reads
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    until = time.monotonic() + 10
    response = request.parent / RESPONSE_FILE
    while not response.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert json.loads(response.read_text(encoding="utf-8"))["status"] == "cancelled"
    assert_nothing_written(request.parent)


@pytest.mark.flow
def test_prints_of_libraries_stay_out_of_the_protocol(job):
    patch = (
        "import stimage_qupath.worker.predicting as w, os\n"
        "original = w.read_request\n"
        "def noisy(path):\n    print('python'); os.write(1, b'from C\\n')\n    return original(path)\n"
        "w.read_request = noisy"
    )
    worker = Worker(job(width=5), patch=patch)
    worker.wait()
    assert worker.events[0]["event"] == "started"
    log = (worker.folder / "worker.log").read_text(encoding="utf-8")
    assert "python" in log
    assert "from C" in log


def test_a_check_loads_the_model_and_answers(tmp_path):
    command = [sys.executable, "-u", "-X", "utf8", "-m", "stimage_qupath", "worker", "--check"]
    found = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=60)
    events = [json.loads(line.removeprefix(PREFIX)) for line in found.stdout.decode("ascii").splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "done"]
    assert {"loading the package", "loading the model"} <= {event.get("stage") for event in events}
    response = json.loads((tmp_path / RESPONSE_FILE).read_text(encoding="utf-8"))
    assert response["versions"]["torch"]
    assert response["images"] == []


def test_the_worker_loads_neither_typer_nor_rich(tmp_path):
    code = "import sys, stimage_qupath.worker; print([m for m in ('typer', 'rich', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
