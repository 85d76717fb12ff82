"""Tables of slides: what passes, what fails alone, and what a cluster does when a worker or the scheduler dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath import cli
from stimage_qupath.config import SlidesSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, PartialFailureError, UsageError
from stimage_qupath.pipeline import cluster as cluster_of_dask
from stimage_qupath.pipeline import slides as flow
from stimage_qupath.pipeline import tasks

TABLES = ("cells.geojson.gz", "cells.parquet", "cells.h5ad")


@pytest.fixture
def table(tmp_path: Path, tissue_slide: Any) -> Path:
    """Return a table of three small slides with relative paths."""
    pixels = tifffile.imread(tissue_slide.path)
    folder = tmp_path / "slides é"
    folder.mkdir()
    for number in range(3):
        part = np.ascontiguousarray(pixels[60 * number : 400 + 60 * number, :420])
        tifffile.imwrite(folder / f"s{number}.tif", part, photometric="rgb", tile=(128, 128))
    path = tmp_path / "slides.csv"
    path.write_text(
        "image,name,mpp\n" + "".join(f"slides é/s{n}.tif,slide {n},0.5\n" for n in range(3)), encoding="utf-8"
    )
    return path


def settings(table: Path, output: Path, **changes: Any) -> SlidesSettings:
    return SlidesSettings(**({"image": table, "output": output, "overview": False, "device": "cpu"} | changes))


def files_of(output: Path) -> dict[str, bytes]:
    return {
        f"{run.name}/{name}": (run / name).read_bytes() for run in sorted(output.glob("slide_*")) for name in TABLES[:2]
    }


def test_each_slide_gets_a_run_and_a_failed_one_stops_nobody(tmp_path: Path, table: Path) -> None:
    (table.parent / "slides é" / "s1.tif").write_bytes(b"II*\0 cut short")
    with pytest.raises(PartialFailureError, match="expected 3 slides to pass, found 1 failed \\(slide_1: ") as e:
        flow.run(settings(table, tmp_path / "out"))
    assert e.value.exit_code == 10
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in record["images"]] == ["done", "failed", "done"]
    assert record["images"][1]["error"]["exit_code"] == 4
    assert record["cells"] == sum(row["cells"] or 0 for row in record["images"]) > 6


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path: Path, table: Path) -> None:
    output = tmp_path / "out"
    flow.run(settings(table, output))
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/run.json")}
    with pytest.raises(OutputExistsError, match="--resume"):
        flow.run(settings(table, output))
    import shutil

    shutil.rmtree(output / "slide_1")
    record = flow.run(settings(table, output, resume=True))
    assert all(row["status"] == "done" for row in record["images"])
    after = {path: path.stat().st_mtime_ns for path in output.glob("*/run.json")}
    assert [path.parent.name for path in after if after[path] != before[path]] == ["slide_1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture\na.tif\n", "expected rows with image"),
        ("image\n", "found 0 rows"),
        ("image,colour\na.tif,red\n", "expected rows with image and any of name"),
        ("image\na/x.tif\nb/x.tif\n", "found x twice; add a column name"),
        ("image,mpp\na.tif,half\n", "found 'half'"),
    ],
)
def test_a_faulty_table_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        flow.run(settings(path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_options_that_belong_into_the_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="columns of the table"):
        settings(tmp_path / "t.csv", tmp_path / "out", mpp=0.5)
    with pytest.raises(UsageError, match="pass --executor dask"):
        settings(tmp_path / "t.csv", tmp_path / "out", scheduler="tcp://h:1")


def test_the_command_takes_a_table(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", str(table), "--output", str(tmp_path / "out"), "--no-overview"]) == 0
    assert "slide_2: done" in capsys.readouterr().out


def test_no_scheduler_is_one_sentence(tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_of_dask, "FIRST_PATIENCE_S", 0.5)
    with pytest.raises(UsageError, match=r"expected a dask scheduler at tcp://127\.0\.0\.1:1"):
        flow.run(settings(table, tmp_path / "out", executor="dask", scheduler="tcp://127.0.0.1:1"))


slow = pytest.mark.slow
calm = pytest.mark.filterwarnings("ignore")  # of the cluster's own threads while their peers are killed


@slow
@calm
def test_processes_give_the_same_files_and_say_who_did_what(tmp_path: Path, table: Path) -> None:
    pytest.importorskip("distributed")
    flow.run(settings(table, tmp_path / "one"))
    record = flow.run(settings(table, tmp_path / "many", executor="dask", workers=2))
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert len({row["where"] for row in record["images"]}) == 2
    assert all(row["where"] != f"{os.uname().nodename}:{os.getpid()}" for row in record["images"])


@pytest.fixture
def cluster(tmp_path: Path):
    """Yield functions that start and kill a scheduler on a fixed port, and workers."""
    pytest.importorskip("distributed")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running: dict[str, subprocess.Popen[bytes]] = {}
    address = f"tcp://127.0.0.1:{port}"

    def start(what: str) -> subprocess.Popen[bytes]:
        module = "distributed.cli.dask_scheduler" if what == "scheduler" else "distributed.cli.dask_worker"
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"] if what == "scheduler" else [
            address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--memory-limit", "0"]  # fmt: skip
        log = (tmp_path / f"{what}.log").open("ab")
        running[what] = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=log, stderr=log)
        return running[what]

    yield address, start, running
    for process in running.values():
        process.kill()
        process.wait()


def in_background(wanted: SlidesSettings, cancelled: Any = lambda: False) -> tuple[threading.Thread, dict[str, Any]]:
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["record"] = flow.run(wanted, cancelled=cancelled)
        except Exception as error:  # noqa: BLE001 - handed to the test
            found["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


def wait_for(condition: Any, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@slow
@calm
def test_a_worker_killed_in_the_middle_costs_nothing(tmp_path: Path, table: Path, cluster: Any) -> None:
    address, start, _ = cluster
    flow.run(settings(table, tmp_path / "one"))
    start("scheduler")
    first = start("worker 1")
    output = tmp_path / "many"
    thread, found = in_background(settings(table, output, executor="dask", scheduler=address))
    wait_for(lambda: list(output.glob("*.partial")))  # an attempt is on its way
    first.send_signal(signal.SIGKILL)
    first.wait()  # else it counts as alive
    start("worker 2")
    thread.join(180)
    assert [row["status"] for row in found["record"]["images"]] == ["done"] * 3
    assert files_of(output) == files_of(tmp_path / "one")
    assert not list(output.glob("*.partial"))


@slow
@calm
def test_a_scheduler_that_is_started_again_gets_what_is_left(tmp_path: Path, table: Path, cluster: Any) -> None:
    address, start, running = cluster
    flow.run(settings(table, tmp_path / "one"))
    start("scheduler")
    start("worker 1")
    output = tmp_path / "many"
    thread, found = in_background(settings(table, output, executor="dask", scheduler=address))
    wait_for(lambda: list(output.glob("*.partial")))
    running["scheduler"].kill()
    running["scheduler"].wait()
    start("scheduler")
    start("worker 2")
    thread.join(240)
    assert [row["status"] for row in found["record"]["images"]] == ["done"] * 3
    assert files_of(output) == files_of(tmp_path / "one")


@slow
@calm
def test_cancel_reaches_the_workers_and_leaves_nothing_half_written(tmp_path: Path, table: Path, cluster: Any) -> None:
    address, start, running = cluster
    start("scheduler")
    start("worker 1")
    output = tmp_path / "many"
    asked = threading.Event()
    thread, found = in_background(settings(table, output, executor="dask", scheduler=address), asked.is_set)
    wait_for(lambda: list(output.glob("*.partial")))
    asked.set()
    thread.join(60)
    assert isinstance(found["error"], CancelledError)
    wait_for(lambda: not list(output.glob("*.partial")), 30)
    assert running["worker 1"].poll() is None  # the worker lives on


def test_a_run_counts_as_finished_only_with_the_same_settings(tmp_path: Path, table: Path) -> None:
    (task, *_) = flow.read_slides(settings(table, tmp_path / "out"))
    assert tasks.finished_record(task.settings) is None
    flow.run(settings(table, tmp_path / "out"))
    assert tasks.finished_record(task.settings)["cells"] > 1
    (other, *_) = flow.read_slides(settings(table, tmp_path / "out", seed=3))
    assert tasks.finished_record(other.settings) is None
