"""A real browser without a window, spoken to through its own pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 90
CONNECT = """
import os, sys
source, sink = (os.dup2(int(number), high) for number, high in zip(sys.argv[1:3], (103, 104)))
os.dup2(source, 3)
os.dup2(sink, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Gives the pipes the numbers that the browser expects, and becomes the browser."""


class Browser:
    """Chromium, one page, and the few words of its protocol that a test needs.

    Protocol: https://chromedevtools.github.io/devtools-protocol; JSON texts that end in a zero byte, which the browser
    reads from file 3 and writes to file 4.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        words += [f"--user-data-dir={profile}", "--hide-scrollbars", "--disable-dev-shm-usage", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(to_browser), str(from_browser), program, *words],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._out, self._in = ours_out, ours_in
        self._buffer, self._number = b"", 0
        self.said: list[dict[str, Any]] = []
        found = self.ask("Target.attachToTarget", targetId=self._page(), flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def _page(self) -> str:
        """Return the first page, which a slow machine has only after a while."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            pages = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            if pages:
                return str(pages[0]["targetId"])
            time.sleep(0.1)
        msg = "the browser opened no page"
        raise TimeoutError(msg)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept in ``said``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            answer = self._next(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.said.append(answer)
        msg = f"the browser did not answer {method}"
        raise TimeoutError(msg)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                msg = "the browser says nothing"
                raise TimeoutError(msg)
            part = os.read(self._in, 2**20)
            if not part:
                msg = "the browser ended"
                raise ConnectionError(msg)
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path, *, ready: str = "document.documentElement.dataset.ready") -> None:
        """Open a file and wait until its script is through."""
        self.said = []
        self.ask("Page.navigate", url=path.as_uri())
        until = time.monotonic() + PATIENCE_S
        while not self.run(f"document.readyState === 'complete' && {ready}"):
            assert time.monotonic() < until, f"the page is not ready: {self.faults()}"
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait for two frames."""
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))")

    def press(self, key: str, *, text: str = "") -> None:
        """Press a key where the focus is."""
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=text or (key if len(key) == 1 else ""))
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move the mouse or turn its wheel."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.settle()

    def look_like(self, *, dark: bool, width: int = 1440, height: int = 1000, phone: bool = False) -> None:
        """Set size and theme of the reader's system."""
        value = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.settle()

    def picture(self, path: Path, *, whole: bool = False, kind: str = "png") -> bytes:
        """Save what is to be seen and return it."""
        data = base64.b64decode(self.ask("Page.captureScreenshot", format=kind, captureBeyondViewport=whole)["data"])
        path.write_bytes(data)
        return data

    def faults(self) -> list[str]:
        """Return errors of scripts and of the content policy since the page was opened."""
        found = []
        for event in self.said:
            about = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"].get("exception", about)))
            if event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
                found.append(about["entry"]["text"])
            if event.get("method") == "Page.javascriptDialogOpening":
                found.append(f"dialog: {about['message']}")
        return found

    def requests(self) -> list[str]:
        """Return every address that the page asked for, but data within it."""
        asked = [e["params"]["request"]["url"] for e in self.said if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        os.close(self._out)
        os.close(self._in)


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    """Return Chromium, or skip."""
    program = find_browser()
    if program is None or sys.platform == "win32":
        pytest.skip(f"needs one of {', '.join(NAMES)} on the PATH, on a system with pipes")
    made = Browser(program, tmp_path_factory.mktemp("profile"))
    yield made
    made.close()
