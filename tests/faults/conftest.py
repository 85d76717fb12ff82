"""The table of faults: what was broken, what is expected of the package, and what was seen; printed after the tests.

Faults are real where they can be: processes are killed, disks are full, bytes are flipped. Each test states its row
through the fixture ``fault``, and says what it saw.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath import cli, names

HERE = Path(__file__).parent
SQUARE = {
    "type": "Feature",
    "id": "1f0d2a1c-3c1f-4a64-9b1b-6a2b4f0d9e11",
    "geometry": {"type": "Polygon", "coordinates": [[[40, 40], [440, 40], [440, 440], [40, 440], [40, 40]]]},
    "properties": {"objectType": "annotation", "name": "square"},
}
WAITING = "WAITING"
WAIT = """
import importlib, pathlib, sys, time
def wait_in(place, after):
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = []
    def wait(*arguments, **named):
        calls.append(1)
        if len(calls) > after:
            print("WAITING", file=sys.stderr, flush=True)
            time.sleep(600)
        return original(*arguments, **named)
    setattr(owner, name, wait)
"""
SMALL_BLOCKS = """
import stimage_qupath.pipeline.predict as predict
def small_blocks(settings, source, original=predict.choose_nuclei):
    nuclei = original(settings, source)
    nuclei.chunks.keywords["block_um"] = 100.0
    return nuclei
predict.choose_nuclei = small_blocks
"""
MAIN = "\nfrom stimage_qupath.__main__ import main\nmain()\n"


@dataclass
class Fault:
    """One row of the table.

    Attributes
    ----------
    name
        What is broken.
    expected
        What has to come of it.
    seen
        What came of it.
    outcome
        Of the test.
    """

    name: str = ""
    expected: str = ""
    seen: list[str] = field(default_factory=list)
    outcome: str = ""

    def states(self, name: str, *, expected: str) -> None:
        """Say what is broken and what has to come of it."""
        self.name, self.expected = name, expected

    def saw(self, text: str) -> None:
        """Say what came of it."""
        self.seen.append(" ".join(text.split()))


ROWS: list[Fault] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table; tests of the same fault that ended alike share a row."""
    if not ROWS:
        return
    columns = (34, 34, 46)
    terminalreporter.section("faults: what was broken | what is expected | what was seen")
    alike: dict[tuple[str, str, str], list[Fault]] = {}
    for row in ROWS:
        alike.setdefault((row.name, row.expected, row.outcome), []).append(row)
    for number, ((name, expected, outcome), rows) in enumerate(alike.items(), start=1):
        seen = "; ".join(rows[0].seen)
        seen = seen if len(rows) == 1 else f"{len(rows)} of them, the first: {seen}"
        seen = seen if outcome == "passed" else f"{outcome.upper()}. {seen}"
        texts = (f"{number}. {name}", expected, seen)
        wrapped = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, columns, strict=True)]
        for line in range(max(map(len, wrapped))):
            parts = [cell[line] if line < len(cell) else "" for cell in wrapped]
            padded = [part.ljust(width) for part, width in zip(parts, columns, strict=True)]
            terminalreporter.write_line(" | ".join(padded).rstrip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note how each test ended."""
    report = yield
    row = item.stash.get(ROW, None)
    if row is not None and (report.when == "call" or report.skipped or report.failed):
        row.outcome = "expected to fail" if hasattr(report, "wasxfail") else report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            row.saw(report.longrepr[2].removeprefix("Skipped: "))
    return report


ROW = pytest.StashKey[Fault]()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """Return the row of this test in the table."""
    row = Fault(name=request.node.name)
    request.node.stash[ROW] = row
    ROWS.append(row)
    return row


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes
    ----------
    code
        Exit code.
    out, err
        What it printed.
    """

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The error; there is exactly one, on the last line, and no traceback."""
        lines = self.err.strip().splitlines()
        assert "Traceback" not in self.err, self.err
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        return lines[-1].removeprefix("error: ")

    @property
    def said(self) -> str:
        """Code and sentence for the table, without paths."""
        if not self.code:
            return "exit 0"
        words = [Path(word).name if word.count("/") > 1 else word for word in self.sentence.split(" ")]
        return f"exit {self.code}: {textwrap.shorten(' '.join(words), 150)}"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return a function that runs a command in this process."""

    def run(*words: object) -> Ended:
        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        return Ended(code, *capsys.readouterr())

    return run


@dataclass
class Process:
    """A command in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_waiting(self, timeout: float = 240) -> None:
        """Wait until it has come to the place where it waits."""
        until = time.monotonic() + timeout
        while WAITING not in self.err:
            assert self.process.poll() is None, self.err
            assert time.monotonic() < until, f"never got there: {self.err}"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it as the system does: without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self, timeout: float = 240) -> Ended:
        """Wait for its end."""
        self.process.wait(timeout)
        return Ended(self.process.returncode, self.log.with_suffix(".out").read_text("utf-8"), self.err)

    @property
    def err(self) -> str:
        """What it has said so far."""
        return self.log.read_text("utf-8")


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """Yield a function that starts a command; ``before`` is code to run first, ``wait_in`` a place to wait in."""
    running: list[Process] = []
    folder = tmp_path_factory.mktemp("processes")

    def run(
        *words: object, before: str = "", wait_in: str | None = None, after: int = 0, limit_kib: int | None = None
    ) -> Process:
        code = ["-m", "stimage_qupath"]
        if before or wait_in:
            waiting = "" if wait_in is None else f"{WAIT}wait_in({wait_in!r}, {after})\n"
            code = ["-c", before + waiting + MAIN]
        log = folder / f"{len(running)}.err"
        python = [sys.executable, "-u", *code, *map(str, words)]
        limited = python if limit_kib is None else ["sh", "-c", f'ulimit -v {limit_kib}; exec "$@"', "sh", *python]
        with log.open("wb") as err, log.with_suffix(".out").open("wb") as out:
            process = subprocess.Popen(limited, stdout=out, stderr=err, env={**os.environ}, start_new_session=True)
        running.append(Process(process, log))
        return running[-1]

    yield run
    for one in running:
        if one.process.poll() is None:
            one.kill()


@dataclass(frozen=True)
class Disk:
    """A file system of its own in memory.

    Attributes
    ----------
    path
        Where it is.
    """

    path: Path

    def make_read_only(self) -> None:
        """Let nobody write on it, not even root."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True, capture_output=True)

    def names(self) -> list[str]:
        """Return what is on it."""
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*"))

    def free(self) -> int:
        """Return the bytes that are left."""
        return shutil.disk_usage(self.path).free


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """Yield a function that mounts a disk of a size such as ``64k``; skip where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux to mount a small disk")
    mounted: list[Path] = []

    def mount(size: str) -> Disk:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "stimage-tests", str(path)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
        mounted.append(path)
        return Disk(path)

    try:
        yield mount
    finally:
        for path in mounted:
            subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with one square annotation on the tissue, which makes runs short."""
    path = tmp_path_factory.mktemp("square") / "square.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [SQUARE]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, tissue_slide: Any, square: Path) -> Path:
    """Return a prediction that nothing disturbed; copy it before it is changed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    words = ["predict", tissue_slide.path, "--output", output, "--annotations", square, "--genes", "BGN"]
    with pytest.MonkeyPatch.context() as patch:
        import stimage_qupath.pipeline.predict as flow

        patch.setattr(flow, "choose_nuclei", flow.choose_nuclei)  # undone at the end
        exec(SMALL_BLOCKS, {})
        assert cli.run([*map(str, words)]) == 0
    return output


@pytest.fixture(scope="session")
def fill_run() -> Callable[[Path], Path]:
    """Return a function that writes a run folder of 3,000 nuclei and three genes in a moment."""
    import numpy as np
    import shapely

    from stimage_qupath.export.run_folder import RunWriter
    from stimage_qupath.results import Cells, Panel, Prediction, Region

    n, genes = 3_000, ("ERBB2", "CD3D", "KRT5")
    rng = np.random.default_rng(5)
    centroids = rng.uniform(20, 980, (n, 2))
    angle = np.arange(16) * np.pi / 8
    rings = centroids[:, None, :] + 4 * np.column_stack([np.cos(angle), np.sin(angle)])
    cells = Cells(
        ids=np.array([f"{i:08x}-0000-4000-8000-000000000000" for i in range(n)], dtype=object),
        polygons=shapely.polygons(rings),
        centroids_px=centroids,
        measurements={names.AREA: rng.uniform(20, 80, n).astype(np.float32)},
    )
    mean, aleatoric, epistemic = rng.gamma(2.0, 2.0, (3, n, len(genes))).astype(np.float32)
    prediction = Prediction(mean, aleatoric, epistemic, rng.uniform(0, 2, n).astype(np.float32))
    region = Region(id="1f0d2a1c-3c1f-4a64-9b1b-6a2b4f0d9e11", geometry=shapely.box(0, 0, 1000, 1000), name="all")
    record = {"image": {"name": "none.tif", "mpp": 0.5, "width": 1000, "height": 1000}, "research_use": "Research."}

    def fill(output: Path) -> Path:
        with RunWriter(output, panel=Panel(genes), genes=genes, model_card={}) as writer:
            writer.start_region(region)
            writer.append(cells, prediction)
            return writer.finish(record)

    return fill


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, fill_run: Callable[[Path], Path]) -> Path:
    """Return a run folder of 3,000 nuclei for commands that read one."""
    return fill_run(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def small_blocks() -> str:
    """Return code that makes blocks so small that the small square has several."""
    return SMALL_BLOCKS
