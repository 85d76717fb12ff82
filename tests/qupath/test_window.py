"""QuPath's real window on a display of its own: a click on Cancel, and "Kill running script" of the script editor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.launcher import launcher_of
from stimage_qupath.qupath.scripts import FOLDER, install

pytestmark = [
    pytest.mark.qupath,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="no Xvfb and xdotool here"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

DRAW = """
from paquo.images import QuPathImageType
with QuPathProject(arguments["project"], mode="r+") as project:
    entry = project.images[0]
    entry.image_type = QuPathImageType.BRIGHTFIELD_H_E
    entry.hierarchy.add_annotation(box(20, 20, arguments["width"] - 20, arguments["height"] - 20))
return None
"""
STARTUP = """
import groovy.lang.Binding
import groovy.lang.GroovyShell
import java.io.File
import javafx.application.Platform
import javafx.scene.control.Button
import javafx.scene.control.Menu
import javafx.scene.control.MenuBar
import javafx.scene.control.MenuItem
import javafx.stage.Window
import qupath.lib.gui.QuPathGUI

def out = new File(%(out)s)
def script = new File(%(script)s)
def how = %(how)s
def say = { String name, String text ->
    def part = new File(out, name + ".part")
    part.setText(text, "UTF-8")
    part.renameTo(new File(out, name))
}
def nodes = { String style ->
    def open = Window.getWindows().findAll { it.isShowing() && it.getScene() != null }
    return open.collectMany { it.getScene().getRoot().lookupAll(style) }
}
def items
items = { MenuItem item -> [item] + (item.hasProperty("items") ? item.getItems().collectMany { items(it) } : []) }
def onFx = { Closure work ->
    def result = new java.util.concurrent.CompletableFuture()
    Platform.runLater { try { result.complete(work()) } catch (Throwable e) { result.completeExceptionally(e) } }
    return result.get()
}
def until = { String what, Closure work ->
    for (int i = 0; i < 600; i++) {
        def found = onFx(work)
        if (found)
            return found
        Thread.sleep(200)
    }
    throw new IllegalStateException("never came: " + what)
}
def menu = { String text ->
    def menus = nodes(".menu-bar").findAll { it instanceof MenuBar }.collectMany { it.getMenus() }
    return menus.collectMany { items(it) }.find { it.getText() == text && !(it instanceof Menu) }
}
def drive = {
    def gui = QuPathGUI.getInstance()
    until("image") { gui.getImageData() }
    if (how == "editor") {
        onFx { gui.getScriptEditor().showScript(script); true }
        def run = until("run") { menu("Run") ?: menu("Run script") }
        onFx { run.fire(); true }
    } else {
        new Thread({
            def binding = new Binding(["qupath.script.file": script.getPath()])
            new GroovyShell(QuPathGUI.class.getClassLoader(), binding).evaluate(script)
        } as Runnable).start()
    }
    def cancel = until("cancel") { nodes(".button").find { it instanceof Button && it.getText() == "Cancel" } }
    def inside = cancel.getLayoutBounds()
    def corner = onFx { cancel.localToScreen(inside.getCenterX(), inside.getCenterY()) }
    say("cancel", corner.getX().round() + " " + corner.getY().round())
    def go = new File(out, "kill")
    while (!new File(out, "asked").exists()) {
        if (go.exists()) {
            go.delete()
            onFx { menu("Kill running script").fire(); true }
        }
        Thread.sleep(50)
    }
    until("closed") { !nodes(".button").any { it instanceof Button && it.getText() == "Cancel" } }
    say("end", onFx { gui.getImageData().getHierarchy().getDetectionObjects().size() }.toString())
}
def thread = new Thread({ try { drive() } catch (Throwable e) { say("fault", e.toString()) } } as Runnable)
thread.setDaemon(true)
thread.start()
"""


@pytest.fixture
def project(tmp_path: Path, tissue_slide: Any, bridge: BridgeClient, in_qupath: Callable[..., Any]) -> Path:
    """Return a project of one image that takes a while, with one annotation and the scripts."""
    image, scale = tmp_path / "large.tif", 1e4 / tissue_slide.mpp
    pixels = np.tile(tifffile.imread(tissue_slide.path), (3, 3, 1))
    tifffile.imwrite(image, pixels, photometric="rgb", resolution=(scale, scale), resolutionunit="CENTIMETER")
    bridge.ask("create", project=str(tmp_path / "p"), images=[str(image)])
    file = tmp_path / "p" / "project.qpproj"
    in_qupath(DRAW, project=str(file), width=pixels.shape[1], height=pixels.shape[0])
    install(tmp_path / "p" / FOLDER)
    return file


@pytest.fixture
def display() -> Iterator[str]:
    """Yield a display of its own with a window manager, where there is one."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x900x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    os.close(write)
    with os.fdopen(read) as stream:
        name = f":{stream.readline().strip()}"
    manager = None
    if shutil.which("openbox"):
        manager = subprocess.Popen(["openbox"], env={**os.environ, "DISPLAY": name}, stderr=subprocess.DEVNULL)
    yield name
    for process in filter(None, (manager, server)):
        process.terminate()
        process.wait(10)


class Gui:
    """A QuPath with a window, driven by a startup script that answers in files."""

    def __init__(self, project: Path, display: str, qupath: Path, how: str) -> None:
        self.display = display
        self.out = project.parent / "out"
        self.out.mkdir()
        script = project.parent / FOLDER / "Predict selected annotations.groovy"
        startup = project.parent / "startup.groovy"
        words = {"out": str(self.out), "script": str(script), "how": how}
        startup.write_text(STARTUP % {key: json.dumps(word) for key, word in words.items()}, encoding="utf-8")
        options = f"-Dqupath.startup.script={startup} -Djava.util.prefs.userRoot={project.parent}"
        environment = {
            **os.environ,
            "DISPLAY": display,
            "QUPATH_JAVA_OPTS": f"-Xmx2g {options}",
            "OMP_NUM_THREADS": "1",
        }
        with (self.out / "qupath.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(launcher_of(qupath)), "-q", "-p", str(project), "-i", "large.tif"],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, name: str, timeout: float = 200) -> str:
        """Return what the script wrote into a file."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if (self.out / name).exists():
                return (self.out / name).read_text(encoding="utf-8")
            assert not (self.out / "fault").exists(), (self.out / "fault").read_text(encoding="utf-8")
            assert self.process.poll() is None
            time.sleep(0.05)
        log = (self.out / "qupath.log").read_text(encoding="utf-8", errors="replace")
        pytest.fail(f"no {name}: {log[-3000:]}")

    def click(self, x: str, y: str) -> None:
        """Press the left button of the mouse there."""
        command = ["xdotool", "mousemove", "--sync", x, y, "click", "1"]
        subprocess.run(command, check=True, env={**os.environ, "DISPLAY": self.display})

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def living(job: Path) -> list[str]:
    """Return the processes that work in a job folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == job:
                found.append(link.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", ["click", "editor"])
def test_a_cancel_in_the_window_ends_everything_within_three_seconds(
    how: str, project: Path, display: str, bridge: BridgeClient
) -> None:
    if bridge.ask("start").startswith("0.4"):
        pytest.skip("QuPath 0.4 takes no startup script, by which the window is driven")
    from stimage_qupath.pipeline.doctor import find_qupath

    qupath = find_qupath()
    assert qupath is not None
    data = project.parent / "data" / "1" / "data.qpdata"
    before = data.read_bytes()
    gui = Gui(project, display, qupath, how)
    try:
        corner = gui.wait_for("cancel").split()
        (job,) = (project.parent / "stimage" / "runs").iterdir()
        until = time.monotonic() + 60
        while not living(job) and time.monotonic() < until:
            time.sleep(0.05)
        assert living(job)
        time.sleep(4)  # well into the work
        assert living(job)
        asked = time.monotonic()
        if how == "click":
            gui.click(*corner)
        else:
            (gui.out / "kill").touch()
        (gui.out / "asked.part").touch()
        while living(job):
            assert time.monotonic() - asked < 3
            time.sleep(0.02)
        (gui.out / "asked.part").rename(gui.out / "asked")
        assert gui.wait_for("end", 20) == "0"
        status = json.loads((project.parent / "stimage" / "status.jsonl").read_text(encoding="utf-8"))
    finally:
        gui.close()
    assert status["status"] == "cancelled"
    assert json.loads((job / "response.json").read_text(encoding="utf-8"))["status"] == "cancelled"
    assert not [path for path in job.iterdir() if path.is_dir()]
    assert data.read_bytes() == before
